//! A prelude and a file become WGSL. Shared with the build script, which has no crate around it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::types::DType;

/// What the WGSL compiler and the adapter behind it take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `Params` in immediates; else in a uniform buffer at `@group(1) @binding(0)`.
    pub immediates: bool,
    /// `enable subgroups;` where a shader uses them: the standard asks for it, naga refuses it.
    pub enable_subgroups: bool,
}

impl Target {
    /// naga with immediates: wgpu on every native adapter that has them.
    pub const NAGA: Target = Target { immediates: true, enable_subgroups: false };
}

/// `Shader` with owned names, as the build script reads it from a file's `// variant:` lines.
#[derive(Default)]
pub struct Specialisation {
    /// `const` declarations.
    pub constants: Vec<(String, u32)>,
    /// Names for `#ifdef`.
    pub flags: BTreeSet<String>,
    /// Storage operands and their element types.
    pub encodings: Vec<(String, DType)>,
    /// Whether subgroup operations are used.
    pub subgroups: bool,
}

/// The flag of shaders that use cooperative matrices of f16.
pub const COOPERATIVE: &str = "COOPERATIVE";

/// The line of a file that declares its parameters.
const IMMEDIATE_PARAMS: &str = "var<immediate> p: Params;";
const UNIFORM_PARAMS: &str = "@group(1) @binding(0) var<uniform> p: Params;";

/// The WGSL of `file`; `find` gives the text of a file by its stem.
///
/// # Errors
/// A message naming file and line of a missing import or an unbalanced `#ifdef`.
pub fn assemble<'a>(
    file: &str,
    specialisation: &Specialisation,
    target: Target,
    find: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<String, String> {
    let mut flags = specialisation.flags.clone();
    for (name, dtype) in &specialisation.encodings {
        flags.insert(format!("{}_{}", name.to_uppercase(), dtype.to_string().to_uppercase()));
    }
    let mut text = String::new();
    if flags.contains(COOPERATIVE) {
        text.push_str("enable f16;\nenable wgpu_cooperative_matrix;\n");
    }
    if target.enable_subgroups && specialisation.subgroups {
        text.push_str("enable subgroups;\n");
    }
    for (name, value) in &specialisation.constants {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    if !specialisation.encodings.is_empty() {
        expand("shared/encodings", &flags, find, &mut text)?;
    }
    for (name, dtype) in &specialisation.encodings {
        let upper = name.to_uppercase();
        let word = if *dtype == DType::F32 { "vec4<f32>" } else { "vec2<u32>" };
        let _ = writeln!(text, "alias {upper}4 = {word};");
        let _ = writeln!(text, "fn decode_{name}(v: {upper}4) -> vec4<f32> {{ return decode_{dtype}(v); }}");
        let _ = writeln!(text, "fn encode_{name}(v: vec4<f32>) -> {upper}4 {{ return encode_{dtype}(v); }}");
    }
    expand(file, &flags, find, &mut text)?;
    if !target.immediates {
        text = text.replace(IMMEDIATE_PARAMS, UNIFORM_PARAMS);
    }
    Ok(text)
}

/// Appends a file with its imports and conditionals resolved.
fn expand<'a>(
    file: &str,
    flags: &BTreeSet<String>,
    find: &dyn Fn(&str) -> Option<&'a str>,
    out: &mut String,
) -> Result<(), String> {
    let source = find(file).ok_or_else(|| format!("no file {file}.wgsl"))?;
    // One entry for each open #ifdef: whether its present branch is taken.
    let mut taken: Vec<bool> = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let mut words = line.split_whitespace();
        let (directive, argument) = (words.next().unwrap_or(""), words.next());
        let named =
            || argument.ok_or_else(|| format!("{file}.wgsl:{}: {directive} without a name", number + 1));
        let unopened = || format!("{file}.wgsl:{}: {directive} without #ifdef", number + 1);
        match directive {
            "#ifdef" => taken.push(flags.contains(named()?)),
            "#else" => {
                let branch = taken.last_mut().ok_or_else(unopened)?;
                *branch = !*branch;
            }
            "#endif" => {
                taken.pop().ok_or_else(unopened)?;
            }
            _ if taken.contains(&false) => {}
            "#import" => expand(&format!("shared/{}", named()?), flags, find, out)?,
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(format!("{file}.wgsl: #ifdef without #endif")) }
}
