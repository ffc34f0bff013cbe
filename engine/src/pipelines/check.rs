//! Whether a request makes sense for a model: known from headers alone, before a weight is read or a device is opened.

use super::model::Model;
use super::request::Request;
use crate::error::Error;
use crate::samplers::{self, Method, Trajectory};

/// What a request comes to with a model.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The sampler: the request's, or else the model's own.
    pub method: &'static Method,
    /// Its steps.
    pub trajectory: Trajectory,
    /// Extents of the latent, `[C, h, w]`.
    pub latent_shape: [usize; 3],
}

impl Model {
    /// Checks `request` and plans its steps.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Sampler`], naming what makes no sense or is not supported.
    pub fn check(&self, request: &Request) -> Result<Planned, Error> {
        let downscale = self.edge_multiple();
        request.check(downscale)?;
        let mut keys = self.scheduler.keys.clone();
        if let Some(prediction) = request.prediction {
            keys.insert("prediction_type".to_owned(), prediction.name().into());
        }
        let method = match request.sampler {
            Some(method) => method,
            None => Method::from_config(&self.scheduler.file, &keys)?,
        };
        let asked = samplers::Request {
            steps: request.steps,
            schedule: request.schedule,
            strength: request.init.as_ref().map(|init| init.strength),
        };
        Ok(Planned {
            method,
            trajectory: method.plan(&self.scheduler.file, &keys, &asked)?,
            latent_shape: [
                self.vae.config.latent_channels,
                request.size.height / downscale,
                request.size.width / downscale,
            ],
        })
    }
}
