//! The autoencoder at work, on whole images or piece by piece: what a device has no room for as a whole gives the same picture
//! in tiles.

use std::collections::HashMap;
use std::rc::Rc;

use kernels::{DType, TensorType};

use super::memory::Phase;
use super::picture::{Image, PixelSize};
use super::piecewise::Piecewise;
use super::pipeline::ALL;
use super::tiles::{Tiles, Whole};
use crate::compile::{compile, plan_for};
use crate::device::{DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::Graph;
use crate::models::VaeKl;

/// Programs for whole images of every size that there was.
pub(super) struct Autoencoder {
    /// How activations are stored.
    pub(super) dtype: DType,
    /// By rows and columns of the latent.
    decoders: HashMap<([usize; 2], DType), Rc<Program>>,
    /// By rows and columns of the picture.
    encoders: HashMap<([usize; 2], DType), Rc<Program>>,
}

/// A network whose smallest images are worked on as wholes, and the others in tiles.
struct Parts {
    whole: Graph,
    tiled: Piecewise,
}

impl Autoencoder {
    pub(super) fn new(dtype: DType) -> Self {
        Autoencoder { dtype, decoders: HashMap::new(), encoders: HashMap::new() }
    }

    /// Takes its programs off the device; weights are whoever's has them.
    pub(super) fn release(&mut self) {
        self.decoders.clear();
        self.encoders.clear();
    }

    /// The decoder for latents of an extent.
    ///
    /// # Errors
    /// As [`compile`].
    pub(super) async fn decoder(
        &mut self,
        gpu: &Gpu,
        vae: &VaeKl,
        extent: [usize; 2],
    ) -> Result<Rc<Program>, Error> {
        let key = (extent, self.dtype);
        if let Some(program) = self.decoders.get(&key) {
            return Ok(program.clone());
        }
        let program = Rc::new(compile(gpu, &self.decoder_graph(vae, extent)?, &vae.weights).await?);
        self.decoders.insert(key, program.clone());
        Ok(program)
    }

    /// The encoder for pictures of a size.
    ///
    /// # Errors
    /// As [`compile`].
    pub(super) async fn encoder(
        &mut self,
        gpu: &Gpu,
        vae: &VaeKl,
        size: PixelSize,
    ) -> Result<Rc<Program>, Error> {
        let key = ([size.height, size.width], self.dtype);
        if let Some(program) = self.encoders.get(&key) {
            return Ok(program.clone());
        }
        let program = Rc::new(compile(gpu, &self.encoder_graph(vae, size)?, &vae.weights).await?);
        self.encoders.insert(key, program.clone());
        Ok(program)
    }

    /// The picture of a latent `[1, h, w, C]`, in tiles with edges of `tile` latent pixels where it has more.
    ///
    /// # Errors
    /// As [`compile`], and those of the device.
    pub(super) async fn decode(
        &mut self,
        gpu: &Gpu,
        vae: &VaeKl,
        latent: &DeviceTensor,
        tile: Option<usize>,
    ) -> Result<Image, Error> {
        gpu.trace_stage(|| "decoder".to_owned());
        let extent = [latent.ty().shape[1], latent.ty().shape[2]];
        let rgb = match is_tiled(extent, tile) {
            None => {
                let program = self.decoder(gpu, vae, extent).await?;
                read_result(gpu, &program, latent).await?
            }
            Some(tile) => {
                let Parts { whole, tiled } = self.decoder_parts(vae, extent, tile)?;
                let program = compile(gpu, &whole, &vae.weights).await?;
                let waist = read_result(gpu, &program, latent).await?;
                drop(program);
                tiled.run(gpu, &vae.weights, waist).await?
            }
        };
        let size = picture_size(vae, extent);
        Ok(Image::new(size, rgb.into_tensor().into_data()))
    }

    /// The mean latent of a picture in the denoiser's scale, `[1, h, w, C]`; tiles as in [`Autoencoder::decode`].
    ///
    /// # Errors
    /// As [`compile`], and those of the device.
    pub(super) async fn encode(
        &mut self,
        gpu: &Gpu,
        vae: &VaeKl,
        image: &Image,
        tile: Option<usize>,
    ) -> Result<DeviceTensor, Error> {
        gpu.trace_stage(|| "encoder".to_owned());
        let extent = latent_extent(vae, image.size());
        let pixels = image.to_pixels();
        let (program, input) = match is_tiled(extent, tile) {
            None => {
                let program = self.encoder(gpu, vae, image.size()).await?;
                (program, gpu.upload_new("pixels", &pixels).await?)
            }
            Some(tile) => {
                let Parts { whole, tiled } = self.encoder_parts(vae, extent, tile)?;
                let pixels = Whole::new(pixels.ty().clone(), pixels.to_bytes());
                let waist = tiled.run(gpu, &vae.weights, pixels).await?.into_tensor();
                (Rc::new(compile(gpu, &whole, &vae.weights).await?), gpu.upload_new("waist", &waist).await?)
            }
        };
        let latent = gpu.allocate("encoded", program.plan().outputs[0].1.clone())?;
        program.run(gpu, &ALL, &[input], std::slice::from_ref(&latent)).await?;
        Ok(latent)
    }

    /// What decoding a latent of an extent takes.
    ///
    /// # Errors
    /// [`Error::Plan`] if the adapter's limits are too low.
    pub(super) fn decoder_phase(
        &self,
        gpu: &Gpu,
        vae: &VaeKl,
        extent: [usize; 2],
        tile: Option<usize>,
    ) -> Result<Phase, Error> {
        match is_tiled(extent, tile) {
            None => Ok(Phase::of("decoder", gpu, &plan_for(gpu, &self.decoder_graph(vae, extent)?)?)),
            Some(tile) => self.decoder_parts(vae, extent, tile)?.phase("decoder", gpu),
        }
    }

    /// What encoding a picture of a size takes.
    ///
    /// # Errors
    /// [`Error::Plan`] if the adapter's limits are too low.
    pub(super) fn encoder_phase(
        &self,
        gpu: &Gpu,
        vae: &VaeKl,
        size: PixelSize,
        tile: Option<usize>,
    ) -> Result<Phase, Error> {
        let extent = latent_extent(vae, size);
        match is_tiled(extent, tile) {
            None => Ok(Phase::of("encoder", gpu, &plan_for(gpu, &self.encoder_graph(vae, size)?)?)),
            Some(tile) => self.encoder_parts(vae, extent, tile)?.phase("encoder", gpu),
        }
    }

    /// The decoder of a latent of an extent.
    ///
    /// # Errors
    /// [`Error::Load`] naming a missing tensor or an unexpected shape.
    pub(super) fn decoder_graph(&self, vae: &VaeKl, [height, width]: [usize; 2]) -> Result<Graph, Error> {
        let latent = TensorType::f32([1, height, width, vae.config.latent_channels]);
        let (mut net, rgb) = vae.build_decoder(latent, self.dtype)?;
        net.graph.output(rgb);
        Ok(net.graph)
    }

    fn encoder_graph(&self, vae: &VaeKl, size: PixelSize) -> Result<Graph, Error> {
        let pixels = TensorType::f32([1, size.height, size.width, 3]);
        let (mut net, latent) = vae.build_encoder(pixels, self.dtype)?;
        net.graph.output(latent);
        Ok(net.graph)
    }

    fn decoder_parts(&self, vae: &VaeKl, extent: [usize; 2], tile: usize) -> Result<Parts, Error> {
        let tiles = Tiles::new(extent, tile);
        let whole = self.decoder_graph(vae, extent)?;
        let whole = whole.between(&whole.inputs(), &[VaeKl::decoder_waist(&whole)]);
        let tiled = self.decoder_graph(vae, tiles.tile())?;
        let tiled = tiled.between(&[VaeKl::decoder_waist(&tiled)], tiled.outputs());
        Ok(Parts { whole, tiled: Piecewise::new(tiles, tiled)? })
    }

    fn encoder_parts(&self, vae: &VaeKl, extent: [usize; 2], tile: usize) -> Result<Parts, Error> {
        let tiles = Tiles::new(extent, tile);
        let whole = self.encoder_graph(vae, picture_size(vae, extent))?;
        let whole = whole.between(&[VaeKl::encoder_waist(&whole)], whole.outputs());
        let tiled = self.encoder_graph(vae, picture_size(vae, tiles.tile()))?;
        let tiled = tiled.between(&tiled.inputs(), &[VaeKl::encoder_waist(&tiled)]);
        Ok(Parts { whole, tiled: Piecewise::new(tiles, tiled)? })
    }
}

impl Parts {
    fn phase(&self, name: &str, gpu: &Gpu) -> Result<Phase, Error> {
        let mut pieces = vec![(plan_for(gpu, &self.whole)?, 1)];
        pieces.extend(self.tiled.plans(gpu)?.into_iter().map(|plan| (plan, self.tiled.tiles())));
        Ok(Phase::of_pieces(name, gpu, &pieces))
    }
}

/// The edge of tiles of a latent of an extent, if it has more than one.
fn is_tiled(extent: [usize; 2], tile: Option<usize>) -> Option<usize> {
    tile.filter(|tile| extent.iter().any(|edge| edge > tile))
}

fn picture_size(vae: &VaeKl, [height, width]: [usize; 2]) -> PixelSize {
    let downscale = vae.config.downscale();
    PixelSize { width: width * downscale, height: height * downscale }
}

/// Rows and columns of the latent of a picture.
pub(super) fn latent_extent(vae: &VaeKl, size: PixelSize) -> [usize; 2] {
    [size.height, size.width].map(|edge| edge / vae.config.downscale())
}

/// The only result of `program` for its only input.
async fn read_result(gpu: &Gpu, program: &Program, input: &DeviceTensor) -> Result<Whole, Error> {
    let ty = program.plan().outputs[0].1.clone();
    let output = gpu.allocate("image", ty.clone())?;
    program.run(gpu, &ALL, std::slice::from_ref(input), std::slice::from_ref(&output)).await?;
    Ok(Whole::new(ty, gpu.read_bytes(&output).await?))
}
