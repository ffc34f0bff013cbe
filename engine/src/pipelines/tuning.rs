//! What a picture's making computes, and what there is to choose in it.

use super::denoiser::build_denoiser;
use super::pipeline::Pipeline;
use super::request::Request;
use super::stack::texts;
use crate::compile::plan_for;
use crate::error::Error;
use crate::plan::Plan;
use crate::tuning::{Task, infer_tasks, tasks_of};

impl Pipeline {
    /// The operations of text encoders, denoiser and decoder that can be computed in several ways, for `request`. Nothing is
    /// uploaded. A refiner and an initial picture's encoder are not looked at.
    ///
    /// # Errors
    /// As [`Pipeline::condition`].
    pub fn tuning_tasks(&self, request: &Request) -> Result<Vec<Task>, Error> {
        Ok(infer_tasks(&self.plans(request)?, self.gpu.caps()))
    }

    /// All operations of text encoders, denoiser and decoder for `request`, each once. Nothing is uploaded. A refiner and an
    /// initial picture's encoder are not looked at.
    ///
    /// # Errors
    /// As [`Pipeline::condition`].
    pub fn tasks(&self, request: &Request) -> Result<Vec<Task>, Error> {
        Ok(tasks_of(&self.plans(request)?))
    }

    fn plans(&self, request: &Request) -> Result<Vec<Plan>, Error> {
        self.model().check(request)?;
        let batch = texts(request).len();
        let mut graphs = Vec::new();
        for place in 0..self.model().text.len() {
            graphs.push(self.base.text_graph(place, batch)?);
        }
        graphs.push(build_denoiser(&self.model().unet, self.base.denoiser_shape(request))?);
        graphs.push(self.autoencoder.decoder_graph(&self.model().vae, self.latent_extent(request.size))?);
        graphs.iter().map(|graph| plan_for(&self.gpu, graph)).collect()
    }
}
