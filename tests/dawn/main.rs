//! Every variant in the hands of every compiler that needs no GPU: naga to SPIR-V, MSL and HLSL, Tint, and the results of Dawn and
//! of this machine's adapter. Prints the table of RELIABILITY.md.
//!
//! `DAWN` names `run.mjs` where its package is installed: `.ci/run dawn`. `KERNEL=matmul` looks at one operation
//! alone.

// The name that the kernels' own tests have for the crate, whose module this shares.
extern crate kernels as photogram_kernels;

mod dawn;
#[path = "../../kernels/tests/translation/mod.rs"]
mod translation;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dawn::Dawn;
use engine::device::Gpu;
use engine::validate::{Verdict, operands, validate_case};
use kernels::check::Hard;
use kernels::{Caps, Case, Dispatch, Shader, Target, Variant};
use photogram_tests::described;
use translation::{SpirvVal, adapters, hlsl, msl, parse, spirv, uses_cooperative_matrices, variants};

const COLUMNS: [&str; 6] = ["SPIR-V", "MSL", "HLSL", "Tint", "Dawn", "llvmpipe"];

/// What compilers said of one shader, by column.
type Findings = Vec<(&'static str, Result<(), String>)>;

/// What compilers and devices found of each variant.
#[derive(Default)]
struct Table {
    /// By variant and column: whether all was well. A cell is missing where nothing was asked.
    rows: BTreeMap<&'static str, BTreeMap<&'static str, bool>>,
    /// By variant and column: comparisons, and the largest NMSE.
    figures: BTreeMap<(&'static str, &'static str), (usize, f64)>,
    failures: BTreeSet<String>,
}

impl Table {
    fn add(&mut self, variant: &'static str, column: &'static str, found: Result<(), String>) {
        *self.rows.entry(variant).or_default().entry(column).or_insert(true) &= found.is_ok();
        if let Err(message) = found {
            self.failures.insert(format!("{column}, {variant}: {message}"));
        }
    }

    fn judge(&mut self, column: &'static str, verdict: &Verdict) {
        let (comparisons, worst) = self.figures.entry((verdict.variant, column)).or_default();
        *comparisons += 1;
        *worst = worst.max(verdict.comparison.nmse);
        let found = if verdict.pass() { Ok(()) } else { Err(described(verdict)) };
        self.add(verdict.variant, column, found);
    }

    fn print(&self) {
        for ((variant, column), (comparisons, worst)) in &self.figures {
            let verdict = if self.rows[variant][column] { "pass" } else { "FAIL" };
            println!("{variant} in {column}: {comparisons} comparisons, worst NMSE {worst:.1e}, {verdict}");
        }
        println!("\n| variant | {} |\n|---|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
        for (variant, row) in &self.rows {
            let cells = COLUMNS.map(|column| match row.get(column) {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            });
            println!("| {variant} | {} |", cells.join(" | "));
        }
        println!();
    }
}

#[test]
fn every_variant_is_taken_by_every_compiler_and_right_in_dawn() {
    let Some(mut dawn) = Dawn::start() else { return };
    let spirv_val = SpirvVal::find().expect("DAWN is set, which needs spirv-val");
    let gpu = photogram_tests::gpu().expect("DAWN is set, which needs an adapter");
    println!("Dawn on {}, subgroups {:?}", dawn.adapter, dawn.subgroups);
    println!("spirv-val v{}; llvmpipe: {}", spirv_val.version, gpu.adapter_name());
    let only = std::env::var("KERNEL").ok();
    let mut cases = kernels::ops::cases();
    cases.retain(|case| only.as_deref().is_none_or(|name| case.op.name() == name));
    let mut table = Table::default();
    translate(&mut table, &mut dawn, &spirv_val, &cases);
    for case in &cases {
        run(&mut table, &mut dawn, &gpu, case);
    }
    table.print();
    assert!(!table.figures.is_empty(), "nothing was compared");
    let failures: Vec<String> = table.failures.into_iter().collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Every shader of every adapter through naga and Tint, which has no cooperative matrices.
fn translate(table: &mut Table, dawn: &mut Dawn, spirv_val: &SpirvVal, cases: &[Case]) {
    let mut known: HashMap<Shader, Findings> = HashMap::new();
    let mut ask = |dispatch: &Dispatch| {
        if let Some(found) = known.get(&dispatch.shader) {
            return found.clone();
        }
        let (module, info) = parse(&dispatch.shader, Target::NAGA);
        let checked = match spirv_val.knows(&module) {
            true => spirv(&module, &info).and_then(|words| spirv_val.check(&words)),
            false => Err(format!("spirv-val v{} knows no cooperative matrices", spirv_val.version)),
        };
        let mut found = vec![("SPIR-V", checked), ("MSL", msl(&module, &info))];
        if !uses_cooperative_matrices(&module) {
            found.push(("HLSL", hlsl(&module, &info)));
            found.push(("Tint", dawn.compile(dispatch).map(drop)));
        }
        known.insert(dispatch.shader.clone(), found.clone());
        found
    };
    for (_, caps) in adapters() {
        for Variant { name, dispatches, .. } in cases.iter().flat_map(|case| variants(case, &caps)) {
            let found: Vec<_> = dispatches.iter().map(&mut ask).collect();
            // A variant goes where all of its shaders go.
            for column in COLUMNS {
                let of = |found: &Findings| {
                    found.iter().find(|(of, _)| *of == column).map(|(_, found)| found.clone())
                };
                let found: Option<Vec<Result<(), String>>> = found.iter().map(of).collect();
                if let Some(found) = found {
                    table.add(name, column, found.into_iter().collect());
                }
            }
        }
    }
}

/// What WebGPU promises everywhere, and what Dawn's adapter has besides: each variant once, on every kind of hard input. Then what
/// is offered to this machine's adapter.
fn run(table: &mut Table, dawn: &mut Dawn, gpu: &Gpu, case: &Case) {
    let with_subgroups = Caps { subgroups: dawn.subgroups, software: true, ..Caps::webgpu() };
    let mut seen = HashSet::new();
    let mut offered = variants(case, &Caps::webgpu());
    offered.extend(variants(case, &with_subgroups));
    offered.retain(|variant| seen.insert(format!("{variant:?}")));
    let result = case.op.infer(&case.inputs).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    for hard in Hard::ALL {
        let operands = operands(case, hard);
        dawn.upload(&operands).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        let expected = case.op.reference(&operands.iter().collect::<Vec<_>>());
        for variant in &offered {
            match dawn.run(variant, &case.inputs, &result) {
                Ok(bytes) => {
                    table.judge("Dawn", &Verdict::of(case, variant.name, hard, &expected, &bytes));
                }
                Err(message) => table.add(variant.name, "Dawn", Err(message)),
            }
        }
    }
    let verdicts = pollster::block_on(validate_case(gpu, case)).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    for verdict in &verdicts {
        table.judge("llvmpipe", verdict);
    }
}
