//! Samplers: how a latent gets from noise to a picture, as scalar arithmetic in f64.
//!
//! A [`Method`] turns a diffusers `scheduler_config.json` and a [`Request`] into a
//! [`Trajectory`], a list of model evaluations and linear combinations with all coefficients
//! known in advance. The pipelines follow it on a device; tests follow it on the host.
//!
//! A method is one file, one line in [`Method::ALL`] and its cases in the fixture.

use serde_json::{Map, Value};

mod config;
mod ddim;
mod dpmpp_2m;
mod error;
mod euler;
mod euler_a;
mod noise_schedule;
mod pndm;
mod prediction;
mod request;
mod sigma_space;
mod sigmas;
mod spacing;
mod trajectory;

use config::Config;
pub use error::SamplerError;
use noise_schedule::{NoiseSchedule, read_n_train};
use prediction::Prediction;
pub use request::{Request, Schedule};
use sigmas::SigmaTable;
use spacing::Range;
pub use spacing::Spacing;
pub use trajectory::{Combination, Operand, Sigma, Start, Step, Store, Term, Timestep, Trajectory};

/// A sampling method.
#[derive(Debug)]
pub struct Method {
    /// The command line's word for it, such as `dpm++2m`.
    pub name: &'static str,
    /// The A1111 web UI's name for it, which picture metadata uses.
    pub a1111_name: &'static str,
    /// The class in diffusers whose defaults and formulas it follows.
    pub class_name: &'static str,
    /// The schedules it can take.
    pub schedules: &'static [Schedule],
    plan: fn(&Config, &Request) -> Result<Trajectory, SamplerError>,
}

impl Method {
    /// All methods, in the order in which they are listed to users.
    pub const ALL: &'static [&'static Method] =
        &[&ddim::METHOD, &euler::METHOD, &euler_a::METHOD, &dpmpp_2m::METHOD, &pndm::METHOD];

    /// # Errors    [`SamplerError::Usage`] with the known names
    pub fn from_name(name: &str) -> Result<&'static Method, SamplerError> {
        let method = Self::ALL.iter().find(|method| method.name == name);
        method.copied().ok_or_else(|| SamplerError::Usage {
            what: "sampler",
            expected: Self::ALL.iter().map(|method| method.name).collect::<Vec<_>>().join(", "),
            found: format!("{name:?}"),
        })
    }

    /// The method that a scheduler configuration was written for, by its `_class_name`.
    ///
    /// # Errors    [`SamplerError::Malformed`] without a class name,
    /// [`SamplerError::Unsupported`] with an unknown one
    pub fn from_config(file: &str, keys: &Map<String, Value>) -> Result<&'static Method, SamplerError> {
        const KEY: &str = "_class_name";
        let config = Config::new(file, keys);
        let value = keys.get(KEY).unwrap_or(&Value::Null);
        let class_name = value.as_str().ok_or_else(|| config.malformed(KEY, "a scheduler's class", value))?;
        let method = Self::ALL.iter().find(|method| method.class_name == class_name);
        method.copied().ok_or_else(|| {
            let supported: Vec<&str> = Self::ALL.iter().map(|method| method.class_name).collect();
            config.unsupported(KEY, &supported.join(", "), value)
        })
    }

    /// Plans a run with the configuration `keys` of `file`, which may be another method's:
    /// keys that both know are honoured, absent ones take this method's default in diffusers.
    ///
    /// # Errors    [`SamplerError`]; its variants tell a senseless request, a broken
    /// configuration and an unsupported one apart
    pub fn plan(
        &self,
        file: &str,
        keys: &Map<String, Value>,
        request: &Request,
    ) -> Result<Trajectory, SamplerError> {
        let config = Config::new(file, keys);
        request.check(self)?;
        let mut trajectory = (self.plan)(&config, request)?;
        request.end(&mut trajectory, read_n_train(&config)?)?;
        trajectory.checked(self.name, &config)
    }
}
