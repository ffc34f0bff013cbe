//! Checkpoints in one file, with the names of the original `ldm` code.
//!
//! Source: CompVis/stable-diffusion's module tree; diffusers.loaders.single_file_utils for the detection keys.

use loaders::{Checkpoint, Error};

/// Where the parts of a pipeline are in such a file.
const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.transformer.";

/// Tensors that give a family away, and its name; the first that is there decides.
const FAMILIES: [(&str, &str); 12] = [
    ("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", "Stable Diffusion XL"),
    ("conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias", "Stable Diffusion XL refiner"),
    ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "Stable Diffusion 2.x"),
    ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
    ("double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
    ("single_stream_modulation.lin.weight", "FLUX.2"),
    ("layers.0.adaLN_modulation.0.weight", "Z-Image"),
    ("edm_mean", "Playground 2.5"),
    ("control_model.input_blocks.0.0.weight", "a ControlNet"),
    ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a LoRA"),
];

/// The three networks of Stable Diffusion 1.x.
pub(super) struct Parts {
    pub(super) text_encoder: Checkpoint,
    pub(super) unet: Checkpoint,
    pub(super) vae: Checkpoint,
}

/// The parts of the Stable Diffusion 1.x checkpoint `file`, under diffusers' names.
///
/// # Errors
/// [`Error::Unsupported`] for another family; [`Error::Malformed`] naming a part that is missing.
pub(super) fn split(file: &Checkpoint) -> Result<Parts, Error> {
    check_family(file)?;
    let parts = Parts {
        text_encoder: file.scoped(TEXT),
        unet: file
            .scoped(UNET)
            .renamed_with(|name| Some(unet_name(name).unwrap_or_else(|| name.to_owned())))?,
        vae: file.scoped(VAE).renamed_with(|name| Some(vae_name(name).unwrap_or_else(|| name.to_owned())))?,
    };
    for (part, prefix, checkpoint) in
        [("text encoder", TEXT, &parts.text_encoder), ("UNet", UNET, &parts.unet), ("VAE", VAE, &parts.vae)]
    {
        if checkpoint.names().len() == 0 {
            return Err(Error::malformed(
                file.label(),
                format!("the {part}"),
                format!("tensors named '{prefix}...'"),
                "none",
            ));
        }
    }
    Ok(parts)
}

/// The family of a checkpoint, or `None` if its tensors give none away.
pub(super) fn family(file: &Checkpoint) -> Option<&'static str> {
    if let Some((_, family)) = FAMILIES.iter().find(|(key, _)| file.get(key).is_some()) {
        return Some(family);
    }
    let context = file.get(&format!("{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"))?;
    let inputs = file.get(&format!("{UNET}input_blocks.0.0.weight"))?.shape.get(1).copied();
    match (context.shape.get(1).copied(), inputs) {
        (Some(768), Some(4)) => Some("Stable Diffusion 1.x"),
        (Some(768), Some(9)) => Some("Stable Diffusion 1.x inpainting"),
        (Some(768), Some(8)) => Some("InstructPix2Pix"),
        (Some(1024), _) => Some("Stable Diffusion 2.x"),
        _ => None,
    }
}

fn check_family(file: &Checkpoint) -> Result<(), Error> {
    match family(file) {
        Some("Stable Diffusion 1.x") => Ok(()),
        Some(other) => {
            let hint = "photogram reads Stable Diffusion 1.x from a single file";
            Err(Error::unsupported(file.label(), format!("a checkpoint of {other}"), hint))
        }
        None => {
            let hint = "none of its tensors belongs to a model family photogram knows";
            Err(Error::unsupported(file.label(), "this checkpoint", hint))
        }
    }
}

/// Residual blocks on a level, and levels, of SD 1.x's UNet.
const UNET_LAYERS: usize = 2;
/// Levels of SD 1.x's autoencoder.
const VAE_LEVELS: usize = 4;

/// The diffusers name of a UNet's tensor.
fn unet_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let tail = |from: usize| parts.get(from..).filter(|rest| !rest.is_empty()).map(|rest| rest.join("."));
    let number = |at: usize| parts.get(at).and_then(|p| p.parse::<usize>().ok());
    Some(match parts.first().copied()? {
        "time_embed" => format!("time_embedding.linear_{}.{}", number(1)? / 2 + 1, tail(2)?),
        "out" if number(1)? == 0 => format!("conv_norm_out.{}", tail(2)?),
        "out" => format!("conv_out.{}", tail(2)?),
        "middle_block" => match number(1)? {
            1 => format!("mid_block.attentions.0.{}", tail(2)?),
            n => format!("mid_block.resnets.{}.{}", n / 2, resnet_name(&tail(2)?)),
        },
        "input_blocks" if number(1)? == 0 => format!("conv_in.{}", tail(3)?),
        "input_blocks" => {
            let (level, layer) = ((number(1)? - 1) / (UNET_LAYERS + 1), (number(1)? - 1) % (UNET_LAYERS + 1));
            match (layer == UNET_LAYERS, number(2)?) {
                (true, _) => format!("down_blocks.{level}.downsamplers.0.conv.{}", tail(4)?),
                (false, 0) => format!("down_blocks.{level}.resnets.{layer}.{}", resnet_name(&tail(3)?)),
                (false, _) => format!("down_blocks.{level}.attentions.{layer}.{}", tail(3)?),
            }
        }
        "output_blocks" => {
            let (level, layer) = (number(1)? / (UNET_LAYERS + 1), number(1)? % (UNET_LAYERS + 1));
            match (number(2)?, parts.get(3).copied()?) {
                (0, _) => format!("up_blocks.{level}.resnets.{layer}.{}", resnet_name(&tail(3)?)),
                (_, "conv") => format!("up_blocks.{level}.upsamplers.0.conv.{}", tail(4)?),
                _ => format!("up_blocks.{level}.attentions.{layer}.{}", tail(3)?),
            }
        }
        _ => return None,
    })
}

/// The diffusers name of a tensor in a UNet's residual block.
fn resnet_name(name: &str) -> String {
    const LAYERS: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    let renamed = LAYERS.iter().find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)));
    renamed.unwrap_or_else(|| name.to_owned())
}

/// The diffusers name of an autoencoder's tensor.
fn vae_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let tail = |from: usize| parts.get(from..).filter(|rest| !rest.is_empty()).map(|rest| rest.join("."));
    let number = |at: usize| parts.get(at).and_then(|p| p.parse::<usize>().ok());
    let half = parts.first().copied()?;
    Some(match parts.get(1).copied()? {
        "norm_out" => format!("{half}.conv_norm_out.{}", tail(2)?),
        "mid" => match parts.get(2).copied()? {
            "block_1" => format!("{half}.mid_block.resnets.0.{}", tail(3)?),
            "block_2" => format!("{half}.mid_block.resnets.1.{}", tail(3)?),
            _ => format!("{half}.mid_block.attentions.0.{}", vae_attention_name(&tail(3)?)?),
        },
        "down" | "up" => {
            let up = parts.get(1) == Some(&"up");
            let level = if up { (VAE_LEVELS - 1).checked_sub(number(2)?)? } else { number(2)? };
            let block = if up { "up_blocks" } else { "down_blocks" };
            match parts.get(3).copied()? {
                "block" => {
                    let layer = tail(5)?.replace("nin_shortcut", "conv_shortcut");
                    format!("{half}.{block}.{level}.resnets.{}.{layer}", number(4)?)
                }
                "downsample" => format!("{half}.{block}.{level}.downsamplers.0.{}", tail(4)?),
                "upsample" => format!("{half}.{block}.{level}.upsamplers.0.{}", tail(4)?),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn vae_attention_name(name: &str) -> Option<String> {
    let (layer, tail) = name.split_once('.')?;
    let layer = match layer {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        _ => return None,
    };
    Some(format!("{layer}.{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldm_names_become_diffusers_names() {
        for (ldm, diffusers) in [
            ("time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("input_blocks.11.0.out_layers.3.weight", "down_blocks.3.resnets.1.conv2.weight"),
            ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
            ("middle_block.2.emb_layers.1.weight", "mid_block.resnets.1.time_emb_proj.weight"),
            ("middle_block.1.norm.bias", "mid_block.attentions.0.norm.bias"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
            (
                "output_blocks.11.1.transformer_blocks.0.ff.net.2.bias",
                "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2.bias",
            ),
            ("out.2.weight", "conv_out.weight"),
        ] {
            assert_eq!(unet_name(ldm).as_deref(), Some(diffusers), "{ldm}");
        }
        for (ldm, diffusers) in [
            ("encoder.down.2.downsample.conv.weight", "encoder.down_blocks.2.downsamplers.0.conv.weight"),
            ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            (
                "decoder.up.0.block.2.nin_shortcut.weight",
                "decoder.up_blocks.3.resnets.2.conv_shortcut.weight",
            ),
            ("decoder.up.3.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"),
            ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ] {
            assert_eq!(vae_name(ldm).as_deref(), Some(diffusers), "{ldm}");
        }
        assert_eq!(vae_name("post_quant_conv.weight"), None, "stays as it is");
    }

    #[test]
    fn names_that_end_early_are_left_alone() {
        let whole = [
            "time_embed.2.bias",
            "input_blocks.3.0.op.weight",
            "input_blocks.4.0.skip_connection.bias",
            "middle_block.2.emb_layers.1.weight",
            "output_blocks.5.2.conv.bias",
            "out.2.weight",
            "encoder.down.2.downsample.conv.weight",
            "encoder.mid.attn_1.q.weight",
            "decoder.up.0.block.2.nin_shortcut.weight",
            "decoder.norm_out.weight",
        ];
        for name in whole {
            let parts: Vec<&str> = name.split('.').collect();
            for n in 0..parts.len() {
                let short = parts[..n].join(".");
                let _ = (unet_name(&short), vae_name(&short));
            }
        }
        assert_eq!(unet_name("input_blocks.0"), None);
        assert_eq!(unet_name("input_blocks.99999999999999999999.0.weight"), None);
    }
}
