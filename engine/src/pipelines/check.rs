//! Whether a request makes sense for a model: known from headers alone, before a weight is read or a device is opened.

use super::model::{Family, Model};
use super::request::{PredictionType, Request};
use crate::error::Error;
use crate::samplers::{self, Method, Spacing, Step, Trajectory};

/// What a request comes to with a model.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The sampler: the request's, or else the model's own.
    pub method: &'static Method,
    /// Its steps.
    pub trajectory: Trajectory,
    /// The steps of the refiner, which follow them, if the model has one.
    pub refinement: Option<Trajectory>,
    /// Extents of the latent, `[C, h, w]`.
    pub latent_shape: [usize; 3],
}

impl Planned {
    /// The evaluations of denoisers in the whole run.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.trajectory.steps.iter().chain(self.refinement.iter().flat_map(|refinement| &refinement.steps))
    }
}

impl Model {
    /// Checks `request` and plans its steps, the refiner's included.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Sampler`], naming what makes no sense or is not supported.
    pub fn check(&self, request: &Request) -> Result<Planned, Error> {
        self.check_with(self.refiner.as_deref(), request)
    }

    pub(super) fn check_with(&self, refiner: Option<&Model>, request: &Request) -> Result<Planned, Error> {
        let downscale = self.edge_multiple();
        request.check(self.least_edge(), downscale)?;
        if self.family == Family::StableDiffusionXlRefiner && request.init.is_none() {
            let expected = "a base model, to which this refiner is given as --refiner, or --init-img";
            return Err(Error::usage("--model", expected, "a refiner alone"));
        }
        let method = match request.sampler {
            Some(method) => method,
            None => Method::from_config(&self.scheduler.file, &self.scheduler.keys)?,
        };
        let asked = samplers::Request {
            schedule: request.schedule,
            strength: request.init.as_ref().map(|init| init.strength),
            denoising_end: refiner.map(|_| request.refiner_start),
            ..samplers::Request::whole(request.steps)
        };
        let refinement = match refiner {
            Some(refiner) => {
                let rest = samplers::Request {
                    schedule: request.schedule,
                    denoising_start: Some(request.refiner_start),
                    ..samplers::Request::whole(request.steps)
                };
                Some(refiner.plan(method, request.spacing, None, &rest)?)
            }
            None => None,
        };
        Ok(Planned {
            method,
            trajectory: self.plan(method, request.spacing, request.prediction, &asked)?,
            refinement,
            latent_shape: [
                self.vae.config.latent_channels,
                request.size.height / downscale,
                request.size.width / downscale,
            ],
        })
    }

    fn plan(
        &self,
        method: &Method,
        spacing: Option<Spacing>,
        prediction: Option<PredictionType>,
        asked: &samplers::Request,
    ) -> Result<Trajectory, Error> {
        let mut keys = self.scheduler.keys.clone();
        if let Some(spacing) = spacing {
            keys.insert(Spacing::KEY.to_owned(), spacing.name().into());
        }
        if let Some(prediction) = prediction {
            keys.insert("prediction_type".to_owned(), prediction.name().into());
        }
        Ok(method.plan(&self.scheduler.file, &keys, asked)?)
    }
}
