//! A picture's settings in the text that the A1111 web UI writes as `parameters`; [`crate::parameters`] reads it.
//!
//! Source: `create_infotext` and `quote` of Forge's `modules/{processing,infotext_utils}.py`, as observable in its files.

use engine::noise::RngKind;
use engine::pipelines::{Request, Told};
use engine::samplers::{Method, Schedule};
use kernels::DType;

use crate::builtin;
use crate::parameters::Parameters;

/// The keyword of the text in a PNG.
pub(crate) const KEYWORD: &str = "parameters";

/// Name and version of this program.
pub(crate) const SOFTWARE: &str = concat!("photogram ", env!("CARGO_PKG_VERSION"));

/// What is worth telling about how a picture was made.
pub(crate) struct Settings<'a> {
    /// What was asked for.
    pub(crate) request: &'a Request,
    /// The sampler that was used.
    pub(crate) method: &'static Method,
    /// The schedule that was followed.
    pub(crate) schedule: Schedule,
    /// The model's name; `None` for the built-in one.
    pub(crate) model: Option<&'a str>,
    /// The refiner's name.
    pub(crate) refiner: Option<&'a str>,
    /// The name of the autoencoder in place of the model's.
    pub(crate) vae: Option<&'a str>,
    /// The name of the file with the initial noise.
    pub(crate) latents: Option<&'a str>,
    /// How weights and activations were stored.
    pub(crate) dtype: DType,
}

impl Settings<'_> {
    /// The text.
    pub(crate) fn parameters(&self) -> String {
        let request = self.request;
        let schedule = match self.schedule {
            Schedule::Discrete => "Uniform",
            Schedule::Karras => "Karras",
        };
        let rng = match request.rng {
            RngKind::Cpu => "CPU",
            RngKind::Cuda => "NV",
        };
        let mut fields = vec![
            ("Steps", request.steps.to_string()),
            ("Sampler", self.method.a1111_name.to_owned()),
            ("Schedule type", schedule.to_owned()),
            ("CFG scale", request.guidance.0.to_string()),
            ("Seed", request.seed.0.to_string()),
            ("Size", request.size.to_string()),
            ("Model", self.model.map_or_else(|| builtin::NAME.to_owned(), model_name)),
        ];
        if let Some(vae) = self.vae {
            fields.push(("VAE", vae.to_owned()));
        }
        if let Some(refiner) = self.refiner {
            fields.push(("Refiner", refiner.to_owned()));
            fields.push(("Refiner switch at", request.refiner_start.to_string()));
        }
        if let Some(spacing) = request.spacing {
            fields.push(("Timestep spacing", spacing.name().to_owned()));
        }
        if let Some(prediction) = request.prediction {
            fields.push(("Prediction type", prediction.name().to_owned()));
        }
        fields.extend(told(&request.told));
        if request.guidance_rescale > 0.0 {
            fields.push(("Guidance rescale", request.guidance_rescale.to_string()));
        }
        if let Some(init) = &request.init {
            fields.push(("Denoising strength", init.strength.to_string()));
        }
        if let Some(latents) = self.latents {
            fields.push(("Latents", latents.to_owned()));
        }
        fields.push(("RNG", rng.to_owned()));
        fields.push(("Precision", self.dtype.to_string()));
        fields.push(("Version", SOFTWARE.to_owned()));
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();

        let negative = request.negative_prompt.as_deref();
        let mut text = format!("{}\n", request.prompt);
        // An empty one that somebody gave is not the same to models that were trained with zeros in its place.
        if let Some(negative) = negative {
            text.push_str(&format!("{NEGATIVE}: {negative}\n"));
        }
        text.push_str(&fields.join(", "));
        let is_clear =
            Parameters::parse(&text).is_ok_and(|read| read.prompts() == (&request.prompt, negative));
        if !is_clear {
            // Lines of a prompt that read as the text's own: the fields count, the lines are for other programs.
            text.push_str(&format!(", {PROMPT}: {}", json(&request.prompt)));
            if let Some(negative) = negative {
                text.push_str(&format!(", {NEGATIVE}: {}", json(negative)));
            }
        }
        text
    }
}

/// The key of a prompt that its lines alone do not tell.
pub(crate) const PROMPT: &str = "Prompt";

/// What begins the negative prompt's line, and the key of one that its lines alone do not tell.
pub(crate) const NEGATIVE: &str = "Negative prompt";

/// A model's name, as it stands in no path's last part where it is the built-in model's.
fn model_name(name: &str) -> String {
    if name == builtin::NAME { format!("./{name}") } else { name.to_owned() }
}

/// What SDXL was told, where it is not what it is told by default.
fn told(told: &Told) -> impl Iterator<Item = (&'static str, String)> {
    let Told { original, crop_top, crop_left, target, aesthetic_score, negative_aesthetic_score } = told;
    let default = Told::default();
    let score = |score: f64, usual: f64| (score != usual).then(|| score.to_string());
    let crop = (*crop_top, *crop_left) != (0, 0);
    [
        ("Original size", original.map(|size| size.to_string())),
        ("Crop", crop.then(|| format!("{crop_left}x{crop_top}"))),
        ("Target size", target.map(|size| size.to_string())),
        ("Aesthetic score", score(*aesthetic_score, default.aesthetic_score)),
        ("Negative aesthetic score", score(*negative_aesthetic_score, default.negative_aesthetic_score)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
}

/// `value` as JSON if a reader would take a part of it for the next field.
fn quoted(value: &str) -> String {
    if value.starts_with('"') || value.contains([',', ':', '\n']) { json(value) } else { value.to_owned() }
}

fn json(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use engine::noise::Seed;
    use engine::pipelines::{GuidanceScale, Image, InitImage, PixelSize, PredictionType};
    use engine::samplers::Spacing;

    use super::*;
    use crate::args::{Cli, parse_generate};

    fn request() -> Request {
        Request {
            prompt: "a lighthouse, at dusk".to_owned(),
            negative_prompt: None,
            guidance_rescale: 0.0,
            size: PixelSize { width: 512, height: 768 },
            steps: 25,
            guidance: GuidanceScale(7.0),
            seed: Seed(42),
            rng: RngKind::Cpu,
            sampler: None,
            schedule: None,
            spacing: None,
            prediction: None,
            init: None,
            told: Told::default(),
            refiner_start: Request::REFINER_START,
        }
    }

    fn text(request: &Request, model: &str) -> String {
        let (method, dtype) = (Method::from_name("dpm++2m").unwrap(), DType::F16);
        let schedule = Schedule::Karras;
        Settings {
            request,
            method,
            schedule,
            model: Some(model),
            refiner: None,
            vae: None,
            latents: None,
            dtype,
        }
        .parameters()
    }

    #[test]
    fn settings_read_as_the_web_ui_writes_them() {
        assert_eq!(
            text(&request(), "v1-5"),
            "a lighthouse, at dusk\nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, \
             Size: 512x768, Model: v1-5, RNG: CPU, Precision: f16, Version: photogram 0.1.0"
        );
    }

    #[test]
    fn a_negative_prompt_and_an_initial_picture_are_told() {
        let size = PixelSize { width: 1, height: 1 };
        let init = InitImage { image: Image::new(size, vec![0.0; 3]), strength: 0.6 };
        let request = Request {
            negative_prompt: Some("blurry".to_owned()),
            guidance: GuidanceScale(7.5),
            rng: RngKind::Cuda,
            init: Some(init),
            ..request()
        };
        assert_eq!(
            text(&request, "v1-5"),
            "a lighthouse, at dusk\nNegative prompt: blurry\nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, \
             CFG scale: 7.5, Seed: 42, Size: 512x768, Model: v1-5, Denoising strength: 0.6, RNG: NV, \
             Precision: f16, Version: photogram 0.1.0"
        );
    }

    #[test]
    fn whatever_changes_the_picture_is_told() {
        let request = Request {
            negative_prompt: Some(String::new()),
            spacing: Some(Spacing::Trailing),
            prediction: Some(PredictionType::V),
            told: Told {
                original: Some(PixelSize { width: 100, height: 200 }),
                crop_top: 3,
                target: Some(PixelSize { width: 9, height: 8 }),
                aesthetic_score: 7.5,
                negative_aesthetic_score: 1.0,
                ..Told::default()
            },
            ..request()
        };
        assert_eq!(
            text(&request, "xl"),
            "a lighthouse, at dusk\nNegative prompt: \nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, \
             CFG scale: 7, Seed: 42, Size: 512x768, Model: xl, Timestep spacing: trailing, \
             Prediction type: v_prediction, \
             Original size: 100x200, Crop: 0x3, Target size: 9x8, Aesthetic score: 7.5, \
             Negative aesthetic score: 1, RNG: CPU, Precision: f16, Version: photogram 0.1.0"
        );
    }

    #[test]
    fn a_value_with_a_separator_is_quoted() {
        for (name, shown) in [
            ("a, b", r#""a, b""#),
            ("C:x", r#""C:x""#),
            ("say \"hi\"\n", r#""say \"hi\"\n""#),
            ("\"x", r#""\"x""#),
            ("x\"", "x\""),
            ("a b", "a b"),
        ] {
            assert_eq!(quoted(name), shown);
        }
    }

    #[test]
    fn every_setting_is_read_as_it_was_written() {
        let pair = |width, height| Some(PixelSize { width, height });
        let size = PixelSize { width: 512, height: 768 };
        let request = Request {
            prompt: "a, \"b\"\nc: d".to_owned(),
            negative_prompt: Some("blurry: very".to_owned()),
            guidance_rescale: 0.7,
            size,
            steps: 25,
            guidance: GuidanceScale(7.5),
            seed: Seed(u64::MAX >> 1),
            rng: RngKind::Cuda,
            sampler: None,
            schedule: None,
            spacing: Some(Spacing::Linspace),
            prediction: Some(PredictionType::V),
            init: Some(InitImage { image: Image::new(size, vec![0.0; 512 * 768 * 3]), strength: 0.6 }),
            told: Told {
                original: pair(100, 200),
                crop_top: 3,
                crop_left: 4,
                target: pair(9, 8),
                aesthetic_score: 7.5,
                negative_aesthetic_score: 1.25,
            },
            refiner_start: 0.9,
        };
        let settings = Settings {
            request: &request,
            method: Method::from_name("euler").unwrap(),
            schedule: Schedule::Discrete,
            model: Some("m, 1"),
            refiner: Some("\"r"),
            vae: Some("v: 1"),
            latents: Some("l\n"),
            dtype: DType::F16,
        };
        let read = Parameters::parse(&settings.parameters()).unwrap();
        let words = read.words().unwrap();
        let expected = [
            ["--prompt", "a, \"b\"\nc: d"],
            ["--negative-prompt", "blurry: very"],
            ["--width", "512"],
            ["--height", "768"],
            ["--steps", "25"],
            ["--sampler", "Euler"],
            ["--schedule", "discrete"],
            ["--cfg-scale", "7.5"],
            ["--seed", "9223372036854775807"],
            ["--precision", "f16"],
            ["--refiner-start", "0.9"],
            ["--timestep-spacing", "linspace"],
            ["--prediction", "v_prediction"],
            ["--original-size", "100x200"],
            ["--crop", "4x3"],
            ["--target-size", "9x8"],
            ["--aesthetic-score", "7.5"],
            ["--negative-aesthetic-score", "1.25"],
            ["--guidance-rescale", "0.7"],
            ["--strength", "0.6"],
            ["--rng", "cuda"],
        ];
        assert_eq!(words, expected.concat());
        assert!(parse_generate(words).is_ok());
        let files = [("model", "Model"), ("vae", "VAE"), ("refiner", "Refiner"), ("latents", "Latents")];
        assert_eq!(files.map(|(_, key)| read.field(key).unwrap()), ["m, 1", "v: 1", "\"r", "l\n"]);
        assert_eq!(read.field("Version"), Some(SOFTWARE));

        // Each flag of `generate` is among these, or changes no picture of a batch; --init-img shows in --strength.
        let changes_nothing = [
            "init-img",
            "adapter",
            "max-vram",
            "vae-tiling",
            "batch-count",
            "output",
            "no-metadata",
            "stats",
            "trace-ranges",
            "dump",
            "verbose",
            "quiet",
        ];
        let mut told: Vec<&str> = expected.iter().map(|[flag, _]| &flag[2..]).collect();
        told.extend(files.iter().map(|(flag, _)| *flag).chain(changes_nothing));
        told.sort_unstable();
        let command = Cli::command();
        let mut flags: Vec<&str> = command
            .find_subcommand("generate")
            .unwrap()
            .get_arguments()
            .filter_map(|flag| flag.get_long())
            .collect();
        flags.sort_unstable();
        assert_eq!(told, flags);
    }

    #[test]
    fn prompts_with_lines_that_look_like_settings_are_read_as_they_were_written() {
        let lines = "Steps: 20, Seed: 1, Size: 8x8";
        for (prompt, negative, is_told_again) in [
            ("a cat", Some("a dog"), false),
            ("a cat\nNegative prompt: a dog", None, true),
            ("a cat\nNegative prompt: a dog", Some(""), false),
            ("a cat\nNegative prompt: ", Some("a dog"), false),
            ("a cat", Some("blur\nNegative prompt: a dog"), true),
            ("", Some("\nNegative prompt: "), true),
            ("Negative prompt: a dog", None, false),
            (lines, None, false),
            (lines, Some(lines), false),
            (
                "a\nSteps: 20, Prompt: \"b\", Negative prompt: c",
                Some("d\nNegative prompt: \"e\", \\ \n"),
                true,
            ),
            ("\n\r\n", Some("\n"), false),
        ] {
            let negative_prompt = negative.map(str::to_owned);
            let request = Request { prompt: prompt.to_owned(), negative_prompt, ..request() };
            let text = text(&request, "m");
            assert_eq!(Parameters::parse(&text).unwrap().prompts(), (prompt, negative), "{text}");
            assert_eq!(text.contains(", Prompt: \""), is_told_again, "{text}");
            let usual = format!(
                "{prompt}\n{}",
                negative.map_or(String::new(), |n| format!("Negative prompt: {n}\n"))
            );
            assert!(text.starts_with(&format!("{usual}Steps: 25, Sampler")), "{text}");
        }
    }

    #[test]
    fn a_model_of_the_built_in_ones_name_is_another() {
        let request = request();
        let model = |model| {
            let (method, dtype) = (Method::from_name("ddim").unwrap(), DType::F16);
            let schedule = Schedule::Discrete;
            let settings = Settings {
                request: &request,
                method,
                schedule,
                model,
                refiner: None,
                vae: None,
                latents: None,
                dtype,
            };
            Parameters::parse(&settings.parameters()).unwrap().field("Model").unwrap().to_owned()
        };
        assert_eq!(model(None), builtin::NAME);
        assert_eq!(model(Some(builtin::NAME)), format!("./{}", builtin::NAME));
    }
}
