//! Where the time of a picture goes: its parts under a clock.

use super::pipeline::{ALL, Pipeline};
use super::request::Request;
use super::stack::texts;
use crate::device::{Clock, DeviceTensor};
use crate::error::Error;
use crate::graph::Rate;
use crate::profile::{Profile, ProfileOptions, Section, Work, measure_roof, measure_section};

impl Pipeline {
    /// Measures each text encoder, what the denoiser computes once for a prompt, one of its steps, and the decoder, for
    /// `request`. A refiner and an initial picture's encoder are not measured. The adapter's peaks are measured last, after
    /// the bytes are counted.
    ///
    /// # Errors
    /// As [`Pipeline::start`]; [`Error::Usage`] for `options` without a run.
    pub async fn profile(&mut self, request: &Request, options: ProfileOptions) -> Result<Profile, Error> {
        let repeat = options.repeat;
        if repeat == 0 {
            return Err(Error::usage("--repeat", "1 or more", repeat));
        }
        let gpu = self.gpu.clone();
        let clock = options.clock.unwrap_or_else(|| gpu.clock());
        let mut sections = self.profile_text(request, clock, repeat).await?;

        let run = self.start(request).await?;
        let (program, inputs, output) = run.first_evaluation().await?;
        let latent = run.x().clone();
        drop(run);
        let outputs = [output];
        for (name, rates) in [("prompt", &[Rate::Load, Rate::Prompt][..]), ("step", &[Rate::Step])] {
            let work = Work { program: &program, rates, inputs: &inputs, outputs: &outputs };
            sections.push(measure_section(&gpu, name, work, clock, repeat).await?);
        }
        sections.push(self.profile_decoder(request, latent, clock, repeat).await?);
        sections.retain(|section| !section.operations.is_empty());

        let peak_bytes = gpu.peak_bytes();
        let roof = measure_roof(&gpu, self.dtype(), clock).await?;
        Ok(Profile { clock, repeat, roof, peak_bytes, sections })
    }

    async fn profile_text(
        &mut self,
        request: &Request,
        clock: Clock,
        repeat: usize,
    ) -> Result<Vec<Section>, Error> {
        self.model().check(request)?;
        let prompts = texts(request);
        let mut sections = Vec::new();
        for place in 0..self.model().text.len() {
            let text = self.base.text_work(&self.gpu, place, &prompts).await?;
            let inputs = [text.embedded];
            let work = Work { program: &text.program, rates: &ALL, inputs: &inputs, outputs: &text.outputs };
            let name = self.model().text[place].network.part();
            sections.push(measure_section(&self.gpu, name, work, clock, repeat).await?);
            self.base.release_large_text(place);
        }
        Ok(sections)
    }

    async fn profile_decoder(
        &mut self,
        request: &Request,
        latent: DeviceTensor,
        clock: Clock,
        repeat: usize,
    ) -> Result<Section, Error> {
        let extent = self.latent_extent(request.size);
        let program = self.autoencoder.decoder(&self.gpu, &self.base.model.vae, extent).await?;
        let outputs = [self.gpu.allocate("pixels", program.plan().outputs[0].1.clone())?];
        let work = Work { program: &program, rates: &ALL, inputs: &[latent], outputs: &outputs };
        Ok(measure_section(&self.gpu, "decode", work, clock, repeat).await?)
    }
}
