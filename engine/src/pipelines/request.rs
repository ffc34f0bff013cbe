//! What is asked for, as plain values.

use crate::error::Error;
use crate::noise::{RngKind, Seed};
use crate::samplers::{Method, Schedule, Spacing};

use super::picture::{Image, PixelSize};

/// How far predictions are pushed from the negative prompt's towards the prompt's; 1 and below: the negative prompt is not
/// evaluated.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct GuidanceScale(pub f64);

impl GuidanceScale {
    /// Whether the negative prompt takes part.
    pub fn is_on(self) -> bool {
        self.0 > 1.0
    }
}

/// A picture to start from.
#[derive(Clone, Debug, PartialEq)]
pub struct InitImage {
    /// The picture, of the request's size.
    pub image: Image,
    /// Part of the schedule that is run on it, 0 (none) ..= 1 (all: the picture hardly matters).
    pub strength: f64,
}

/// What a denoiser's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity of Salimans & Ho 2022.
    V,
}

impl PredictionType {
    /// Its name in scheduler_config.json.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::V => "v_prediction",
        }
    }
}

/// What SDXL is told about the picture besides the prompt; other models are not.
///
/// Source: Podell et al. 2023, section 2.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Size of the picture it pretends to have been trained on; the request's if `None`. Small ones draw blurry.
    pub original: Option<PixelSize>,
    /// Rows cut off at the top of that picture.
    pub crop_top: usize,
    /// Columns cut off at its left.
    pub crop_left: usize,
    /// Size that picture was brought to; the request's if `None`.
    pub target: Option<PixelSize>,
    /// How beautiful the picture is, 1 to 10, to a refiner.
    pub aesthetic_score: f64,
    /// The same, beside the negative prompt.
    pub negative_aesthetic_score: f64,
}

impl Default for Told {
    fn default() -> Self {
        Told {
            original: None,
            crop_top: 0,
            crop_left: 0,
            target: None,
            aesthetic_score: 6.0,
            negative_aesthetic_score: 2.5,
        }
    }
}

/// A picture that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it shows.
    pub prompt: String,
    /// What it shall not show. `None` is not an empty text to models that were trained with zeros in its place.
    pub negative_prompt: Option<String>,
    /// Its size.
    pub size: PixelSize,
    /// Steps of the sampler.
    pub steps: usize,
    /// Guidance.
    pub guidance: GuidanceScale,
    /// How much of the contrast that guidance adds is taken away, 0 (none) to 1: Lin et al. 2023, section 3.4.
    pub guidance_rescale: f64,
    /// Seed of the noise.
    pub seed: Seed,
    /// Generator of the noise.
    pub rng: RngKind,
    /// Sampler; the model's own if `None`.
    pub sampler: Option<&'static Method>,
    /// Noise schedule; the model's own if `None`.
    pub schedule: Option<Schedule>,
    /// Which timesteps are visited; as the model's scheduler says if `None`. Single files do not say it, and models for few
    /// steps need [`Spacing::Trailing`].
    pub spacing: Option<Spacing>,
    /// What the denoiser's output means; as the model's scheduler says if `None`.
    pub prediction: Option<PredictionType>,
    /// A picture to start from.
    pub init: Option<InitImage>,
    /// What SDXL is told besides the prompt.
    pub told: Told,
    /// The part of the training schedule after which a model's refiner takes over, above 0 and below 1.
    pub refiner_start: f64,
}

impl Request {
    /// The `refiner_start` of who does not say: Podell et al. 2023.
    pub const REFINER_START: f64 = 0.8;

    /// Checks what does not depend on the model's parts; `multiple` is what edges must be multiples of, and
    /// `least` the smallest one.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag.
    pub(super) fn check(&self, least: usize, multiple: usize) -> Result<(), Error> {
        const LARGEST: usize = 16_384;
        for (flag, edge) in [("--width", self.size.width), ("--height", self.size.height)] {
            if !(least..=LARGEST).contains(&edge) || edge % multiple != 0 {
                let expected = format!("a multiple of {multiple} from {least} up to {LARGEST}");
                return Err(Error::usage(flag, expected, edge));
            }
        }
        if !self.guidance.0.is_finite() {
            return Err(Error::usage("--cfg-scale", "a finite number", self.guidance.0));
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return Err(Error::usage("--guidance-rescale", "0 to 1", self.guidance_rescale));
        }
        if !(self.told.aesthetic_score.is_finite() && self.told.negative_aesthetic_score.is_finite()) {
            return Err(Error::usage("--aesthetic-score", "a finite number", self.told.aesthetic_score));
        }
        if let Some(init) = &self.init {
            if !(0.0..=1.0).contains(&init.strength) {
                return Err(Error::usage("--strength", "0 to 1", init.strength));
            }
            if init.image.size() != self.size {
                return Err(Error::usage("--init-img", format!("{} pixels", self.size), init.image.size()));
            }
        }
        Ok(())
    }
}
