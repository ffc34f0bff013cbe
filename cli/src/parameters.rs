//! A picture's settings, read back from the text that [`crate::metadata`] writes.

use crate::metadata::{NEGATIVE, PROMPT};

/// What the text says.
#[derive(Debug, PartialEq)]
pub(crate) struct Parameters {
    prompt: String,
    negative_prompt: Option<String>,
    fields: Vec<(String, String)>,
}

impl Parameters {
    /// Reads the text: the prompt, `Negative prompt: ` with another one, and a line of fields. Where a field has the prompt,
    /// the fields have both.
    ///
    /// # Errors    what is wrong with it, in words
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (head, last) =
            text.rsplit_once('\n').ok_or("expected a line of settings after the prompt, found none")?;
        let fields = fields(last)?;
        if !fields.iter().any(|(key, _)| key == "Steps") {
            return Err("expected 'Steps: ' in the last line, found none".to_owned());
        }
        if let Some(prompt) = value(&fields, PROMPT) {
            let (prompt, negative) = (prompt.to_owned(), value(&fields, NEGATIVE).map(str::to_owned));
            return Ok(Parameters { prompt, negative_prompt: negative, fields });
        }
        // A prompt may have lines of its own; the last line that begins so is the negative prompt's.
        let (prompt, negative_prompt) = match head.rsplit_once(&format!("\n{NEGATIVE}: ")) {
            Some((prompt, negative)) => (prompt, Some(negative.to_owned())),
            None => (head, None),
        };
        Ok(Parameters { prompt: prompt.to_owned(), negative_prompt, fields })
    }

    /// The prompt and the negative one.
    pub(crate) fn prompts(&self) -> (&str, Option<&str>) {
        (&self.prompt, self.negative_prompt.as_deref())
    }

    /// A field's value.
    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        value(&self.fields, key)
    }

    /// The words of `generate` that ask for the same, but for files.
    ///
    /// # Errors    a field that is lacking or makes no sense, in words
    pub(crate) fn words(&self) -> Result<Vec<String>, String> {
        let mut words = vec!["--prompt".to_owned(), self.prompt.clone()];
        if let Some(negative) = &self.negative_prompt {
            words.extend(["--negative-prompt".to_owned(), negative.clone()]);
        }
        let size = self.field("Size").ok_or("expected 'Size: ', found none")?;
        let (width, height) =
            size.split_once('x').ok_or_else(|| format!("expected a size, found '{size}'"))?;
        words.extend(["--width", width, "--height", height].map(str::to_owned));
        for (key, flag, spelled) in FLAGS {
            let Some(value) = self.field(key) else { continue };
            let known = spelled.iter().find(|(theirs, _)| *theirs == value);
            words.extend([(*flag).to_owned(), known.map_or(value, |(_, ours)| ours).to_owned()]);
        }
        Ok(words)
    }
}

/// A key, its flag, and values that are spelled differently.
type Flag = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const FLAGS: &[Flag] = &[
    ("Steps", "--steps", &[]),
    ("Sampler", "--sampler", &[]),
    ("Schedule type", "--schedule", &[("Uniform", "discrete")]),
    ("CFG scale", "--cfg-scale", &[]),
    ("Seed", "--seed", &[]),
    ("Precision", "--precision", &[]),
    ("Refiner switch at", "--refiner-start", &[]),
    ("Timestep spacing", "--timestep-spacing", &[]),
    ("Prediction type", "--prediction", &[]),
    ("Original size", "--original-size", &[]),
    ("Crop", "--crop", &[]),
    ("Target size", "--target-size", &[]),
    ("Aesthetic score", "--aesthetic-score", &[]),
    ("Negative aesthetic score", "--negative-aesthetic-score", &[]),
    ("Guidance rescale", "--guidance-rescale", &[]),
    ("Denoising strength", "--strength", &[]),
    ("RNG", "--rng", &[("CPU", "cpu"), ("NV", "cuda")]),
];

fn value<'a>(fields: &'a [(String, String)], key: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// `key: value, key: "quoted, value"`.
fn fields(line: &str) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once(": ").ok_or_else(|| format!("expected 'key: value', found '{rest}'"))?;
        let (value, after) = match after.starts_with('"') {
            true => {
                quoted(after).ok_or_else(|| format!("expected a closing quotation mark, found '{after}'"))?
            }
            false => match after.split_once(", ") {
                Some((value, after)) => (value.to_owned(), after),
                None => (after.to_owned(), ""),
            },
        };
        fields.push((key.to_owned(), value));
        rest = after;
    }
    Ok(fields)
}

/// A JSON string at the start of `text`, and what follows it and a comma.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let value = values.next()?.ok()?;
    let rest = &text[values.byte_offset()..];
    Some((value, rest.strip_prefix(", ").unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Parameters::parse(text).and_then(|parsed| parsed.words()).expect("sound")
    }

    #[test]
    fn what_was_written_is_read() {
        let text = "a lighthouse, at dusk\nand sea\nNegative prompt: blurry: very\nSteps: 25, Sampler: DPM++ 2M, \
                    Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 512x768, Model: \"a, \\\"b\\\"\", \
                    Prediction type: v_prediction, Crop: 0x3, RNG: NV, Version: photogram 0.1.0";
        let parsed = Parameters::parse(text).expect("sound");
        assert_eq!(parsed.field("Model"), Some("a, \"b\""));
        assert_eq!(parsed.field("VAE"), None);
        assert_eq!(
            parsed.words().expect("complete").join("|"),
            "--prompt|a lighthouse, at dusk\nand sea|--negative-prompt|blurry: very|--width|512|--height|768|--steps|25|\
             --sampler|DPM++ 2M|--schedule|Karras|--cfg-scale|7.5|--seed|42|--prediction|v_prediction|--crop|0x3|--rng|cuda"
        );
    }

    #[test]
    fn an_empty_negative_prompt_is_one() {
        let fields = "Steps: 1, Size: 8x8";
        assert_eq!(words(&format!("x\nNegative prompt: \n{fields}"))[2..4], ["--negative-prompt", ""]);
        assert_eq!(words(&format!("x\n{fields}"))[2], "--width");
        assert_eq!(words(&format!("\n{fields}"))[1], "");
    }

    #[test]
    fn what_is_no_text_of_settings_is_refused() {
        for (text, says) in [
            ("a prompt alone", "found none"),
            ("x\ny", "'key: value'"),
            ("x\nSteps: 1, Model: \"a", "closing"),
            ("x\nSeed: 1", "'Steps: '"),
        ] {
            let problem = Parameters::parse(text).expect_err(text);
            assert!(problem.contains(says), "{text}: {problem}");
        }
        for text in ["x\nSteps: 1", "x\nSteps: 1, Size: 8"] {
            assert!(Parameters::parse(text).and_then(|parsed| parsed.words()).is_err(), "{text}");
        }
    }
}
