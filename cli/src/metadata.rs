//! A picture's settings in the text that the A1111 web UI writes as `parameters`.
//!
//! Source: `create_infotext` and `quote` of Forge's `modules/{processing,infotext_utils}.py`, as observable in its files.

use engine::noise::RngKind;
use engine::pipelines::{Request, Told};
use engine::samplers::{Method, Schedule};
use kernels::DType;

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
    /// The model's name.
    pub(crate) model: &'a str,
    /// The refiner's name.
    pub(crate) refiner: Option<&'a str>,
    /// The name of the autoencoder in place of the model's.
    pub(crate) vae: Option<&'a str>,
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
            ("Model", self.model.to_owned()),
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
        fields.push(("RNG", rng.to_owned()));
        fields.push(("Precision", self.dtype.to_string()));
        fields.push(("Version", SOFTWARE.to_owned()));
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();

        let mut text = format!("{}\n", request.prompt);
        // An empty one that somebody gave is not the same to models that were trained with zeros in its place.
        if let Some(negative) = &request.negative_prompt {
            text.push_str(&format!("Negative prompt: {negative}\n"));
        }
        text + &fields.join(", ")
    }
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
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use engine::noise::Seed;
    use engine::pipelines::{GuidanceScale, Image, InitImage, PixelSize, PredictionType};
    use engine::samplers::Spacing;

    use super::*;

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
        Settings { request, method, schedule: Schedule::Karras, model, refiner: None, vae: None, dtype }
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
            ("a b", "a b"),
        ] {
            assert_eq!(quoted(name), shown);
        }
    }
}
