//! What kind of model a file holds, told from names and shapes of its tensors.

use loaders::{Checkpoint, Error};

use super::{Names, Part, UNET_PREFIX};

/// A model family whose single files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipelines) enum Family {
    /// Stable Diffusion 1.x.
    StableDiffusion1,
    /// Stable Diffusion 2.x, SD-Turbo.
    StableDiffusion2,
    /// Stable Diffusion XL, SDXL-Turbo.
    StableDiffusionXl,
    /// The refiner of Stable Diffusion XL.
    StableDiffusionXlRefiner,
}

impl Family {
    /// Its name, as users know it.
    pub(in crate::pipelines) fn name(self) -> &'static str {
        match self {
            Family::StableDiffusion1 => "Stable Diffusion 1.x",
            Family::StableDiffusion2 => "Stable Diffusion 2.x",
            Family::StableDiffusionXl => "Stable Diffusion XL",
            Family::StableDiffusionXlRefiner => "Stable Diffusion XL refiner",
        }
    }

    /// Its text encoders, in the order in which their contexts are joined.
    pub(in crate::pipelines) fn text_encoders(self) -> &'static [Part] {
        const CLIP: Part = Part {
            folder: "text_encoder",
            role: "the text encoder",
            prefix: "cond_stage_model.transformer.",
            names: Names::Transformers,
        };
        // The context is what the last layer but one gives: diffusers leaves out the 24th.
        const OPEN_CLIP_H: Part = Part {
            prefix: "cond_stage_model.model.",
            names: Names::OpenClip { layers: 23, projection: false },
            ..CLIP
        };
        const XL_CLIP: Part =
            Part { role: "the first text encoder", prefix: "conditioner.embedders.0.transformer.", ..CLIP };
        const XL_OPEN_CLIP_BIG_G: Part = Part {
            folder: "text_encoder_2",
            role: "the second text encoder",
            prefix: "conditioner.embedders.1.model.",
            names: Names::OpenClip { layers: 32, projection: true },
        };
        // diffusers calls it the second there too: it is the base's second.
        const REFINER_OPEN_CLIP_BIG_G: Part =
            Part { role: "the text encoder", prefix: "conditioner.embedders.0.model.", ..XL_OPEN_CLIP_BIG_G };
        match self {
            Family::StableDiffusion1 => &[CLIP],
            Family::StableDiffusion2 => &[OPEN_CLIP_H],
            Family::StableDiffusionXl => &[XL_CLIP, XL_OPEN_CLIP_BIG_G],
            Family::StableDiffusionXlRefiner => &[REFINER_OPEN_CLIP_BIG_G],
        }
    }
}

/// What a file's tensors give away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipelines) enum Kind {
    /// A family that is read.
    Family(Family),
    /// Something else that is known by name.
    Other(&'static str),
}

impl Kind {
    /// Its name, as users know it.
    pub(in crate::pipelines) fn name(self) -> &'static str {
        match self {
            Kind::Family(family) => family.name(),
            Kind::Other(name) => name,
        }
    }
}

/// Tensors that give another model away, and its name; the first that is there decides. Each may have `model.diffusion_model.`
/// in front.
const OTHERS: [(&str, &str); 13] = [
    ("joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
    ("distilled_guidance_layer.in_proj.bias", "Chroma"),
    ("single_stream_modulation.lin.weight", "FLUX.2"),
    ("double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
    ("layers.0.adaLN_modulation.0.weight", "Z-Image"),
    ("cap_embedder.0.weight", "Lumina 2"),
    ("head.modulation", "Wan"),
    ("txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias", "HunyuanVideo"),
    ("clip_txt_mapper.weight", "Stable Cascade"),
    ("edm_mean", "Playground 2.5"),
    ("edm_vpred.sigma_max", "CosXL"),
    ("control_model.input_blocks.0.0.weight", "a ControlNet"),
    ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
];

/// How names of tensors begin and end that add to another model's weights.
const LORA_BEGINNINGS: [&str; 6] =
    ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_transformer_", "lycoris_"];
const LORA_ENDINGS: [&str; 7] = [
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora.down.weight",
    ".hada_w1_a",
    ".lokr_w1",
];

/// The kind of a checkpoint, or `None` if its tensors give none away.
pub(in crate::pipelines) fn family(file: &Checkpoint) -> Option<Kind> {
    let is_there = |name: &str| file.get(name).is_some();
    let other = OTHERS.iter().find(|(key, _)| is_there(key) || is_there(&format!("{UNET_PREFIX}{key}")));
    if let Some((_, other)) = other {
        return Some(Kind::Other(other));
    }
    let is_lora = |name: &str| {
        LORA_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || LORA_ENDINGS.iter().any(|ending| name.ends_with(ending))
    };
    if file.names().any(is_lora) {
        return Some(Kind::Other("a LoRA"));
    }
    by_unet(file).or_else(|| by_text_encoder(file).map(Kind::Family))
}

/// Told from the features of a context's token and from the channels of the input.
fn by_unet(file: &Checkpoint) -> Option<Kind> {
    const CONTEXT: [&str; 3] = ["input_blocks.1.1", "input_blocks.2.1", "input_blocks.4.1"];
    let unet = |name: &str| file.get(&format!("{UNET_PREFIX}{name}"));
    let columns = |name: &str| unet(name).and_then(|entry| entry.shape.get(1)).copied();
    let key = |block: &&str| columns(&format!("{block}.transformer_blocks.0.attn2.to_k.weight"));
    let context = CONTEXT.iter().find_map(key)?;
    let has_labels = unet("label_emb.0.0.weight").is_some();
    // A file without the input's tensor is of the family that the rest of it is of: its UNet lacks that tensor.
    Some(match (context, columns("input_blocks.0.0.weight").unwrap_or(4)) {
        (768, 4) => Kind::Family(Family::StableDiffusion1),
        (768, 8) => Kind::Other("InstructPix2Pix"),
        (768, 9) => Kind::Other("Stable Diffusion 1.x inpainting"),
        (1024, 4) if has_labels => Kind::Other("Stable unCLIP 2.1"),
        (1024, 4) => Kind::Family(Family::StableDiffusion2),
        (1024, 5) => Kind::Other("Stable Diffusion 2.x depth"),
        (1024, 7) => Kind::Other("the Stable Diffusion x4 upscaler"),
        (1024, 8) => Kind::Other("Stable Video Diffusion"),
        (1024, 9) => Kind::Other("Stable Diffusion 2.x inpainting"),
        (2048, 4) => Kind::Family(Family::StableDiffusionXl),
        (2048, 8) => Kind::Other("Stable Diffusion XL InstructPix2Pix"),
        (2048, 9) => Kind::Other("Stable Diffusion XL inpainting"),
        (1280, 4) => Kind::Family(Family::StableDiffusionXlRefiner),
        _ => Kind::Other("an unknown variant of Stable Diffusion"),
    })
}

/// Told from which text encoder is there, where there is no UNet.
fn by_text_encoder(file: &Checkpoint) -> Option<Family> {
    let families = [
        Family::StableDiffusionXl,
        Family::StableDiffusionXlRefiner,
        Family::StableDiffusion2,
        Family::StableDiffusion1,
    ];
    let has = |part: &Part| file.names().any(|name| name.starts_with(part.prefix));
    families.into_iter().find(|family| family.text_encoders().iter().any(has))
}

/// The family of `file`.
///
/// # Errors
/// [`Error::Unsupported`] if it is none of those that are read.
pub(in crate::pipelines) fn require_family(file: &Checkpoint) -> Result<Family, Error> {
    let (what, hint) = match family(file) {
        Some(Kind::Family(family)) => return Ok(family),
        Some(Kind::Other(other)) => {
            let is_whole = ["a ", "an ", "the "].iter().any(|article| other.starts_with(article));
            let what = if is_whole { other.to_owned() } else { format!("a checkpoint of {other}") };
            (what, "photogram reads Stable Diffusion 1.x, 2.x and XL from a single file")
        }
        None => {
            let hint = "none of its tensors belongs to a model family photogram knows";
            ("this checkpoint".to_owned(), hint)
        }
    };
    Err(Error::unsupported(file.label(), what, hint))
}
