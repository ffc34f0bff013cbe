//! A picture of a tiny model, as small as they are.

use engine::Error;
use engine::noise::{RngKind, Seed};
use engine::pipelines::{GuidanceScale, Pipeline, PixelSize, Request, Told};
use pollster::block_on;

/// Two steps of `width` x 32 pixels with guidance.
///
/// # Errors
/// Whatever keeps `pipeline` from drawing.
pub fn draw_tiny(pipeline: &mut Pipeline, width: usize) -> Result<Vec<u8>, Error> {
    let request = tiny_request(width);
    block_on(async {
        let mut run = pipeline.start(&request).await?;
        while run.next().await?.is_some() {}
        Ok(run.decode().await?.to_rgb8())
    })
}

/// What [`draw_tiny`] asks for.
pub fn tiny_request(width: usize) -> Request {
    Request {
        prompt: "x".to_owned(),
        negative_prompt: None,
        size: PixelSize { width, height: 32 },
        steps: 2,
        guidance: GuidanceScale(2.0),
        guidance_rescale: 0.0,
        seed: Seed(1),
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
