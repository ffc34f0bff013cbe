//! The names of tensors in `ldm`'s and `sgm`'s files and in OpenCLIP, and what diffusers and transformers call them.
//!
//! Source: the module trees of CompVis/stable-diffusion, Stability-AI/generative-models and mlfoundations/open_clip;
//! diffusers.loaders.single_file_utils.

/// Residual blocks on a level of the UNets of all families.
const UNET_LAYERS: usize = 2;
/// Levels of their autoencoders.
const VAE_LEVELS: usize = 4;

/// The diffusers name of a UNet's tensor.
pub(super) fn unet_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let tail = |from: usize| parts.get(from..).filter(|rest| !rest.is_empty()).map(|rest| rest.join("."));
    let number = |at: usize| parts.get(at).and_then(|p| p.parse::<usize>().ok());
    Some(match parts.first().copied()? {
        "time_embed" => format!("time_embedding.linear_{}.{}", number(1)? / 2 + 1, tail(2)?),
        "label_emb" if number(1)? == 0 => {
            format!("add_embedding.linear_{}.{}", number(2)? / 2 + 1, tail(3)?)
        }
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
pub(super) fn vae_name(name: &str) -> Option<String> {
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

/// The transformers names of a tensor of OpenCLIP's text encoder: three for fused projections, none for what is not used.
///
/// `layers` are used, the others left out, and the projection only if `projection`: it stays `text_projection`, for it is
/// stored `[inputs, outputs]`, unlike transformers' `text_projection.weight`.
pub(super) fn open_clip_names(name: &str, layers: usize, projection: bool) -> Vec<String> {
    if let Some(block) = name.strip_prefix("transformer.resblocks.") {
        return open_clip_layer_names(block, layers).unwrap_or_default();
    }
    let renamed = match name {
        "token_embedding.weight" => "text_model.embeddings.token_embedding.weight",
        "positional_embedding" => "text_model.embeddings.position_embedding.weight",
        "ln_final.weight" => "text_model.final_layer_norm.weight",
        "ln_final.bias" => "text_model.final_layer_norm.bias",
        "text_projection" if projection => "text_projection",
        _ => return Vec::new(),
    };
    vec![renamed.to_owned()]
}

/// [`open_clip_names`] of what follows `transformer.resblocks.`.
fn open_clip_layer_names(name: &str, layers: usize) -> Option<Vec<String>> {
    const MODULES: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let (layer, rest) = name.split_once('.')?;
    let layer: usize = layer.parse().ok().filter(|layer| *layer < layers)?;
    let layer = format!("text_model.encoder.layers.{layer}");
    if let Some(parameter) = rest.strip_prefix("attn.in_proj_") {
        return Some(["q", "k", "v"].map(|part| format!("{layer}.self_attn.{part}_proj.{parameter}")).into());
    }
    let renamed =
        MODULES.iter().find_map(|(old, new)| Some(format!("{layer}.{new}{}", rest.strip_prefix(old)?)));
    renamed.map(|name| vec![name])
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
            // SDXL: transformers of several blocks, three levels, an embedding of sizes and of the text.
            ("label_emb.0.0.weight", "add_embedding.linear_1.weight"),
            ("label_emb.0.2.bias", "add_embedding.linear_2.bias"),
            (
                "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0.weight",
                "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0.weight",
            ),
            (
                "middle_block.1.transformer_blocks.9.norm3.weight",
                "mid_block.attentions.0.transformer_blocks.9.norm3.weight",
            ),
            ("output_blocks.2.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.8.0.in_layers.2.bias", "up_blocks.2.resnets.2.conv1.bias"),
            // Its refiner: no transformers where the image is smallest.
            ("output_blocks.5.1.proj_out.weight", "up_blocks.1.attentions.2.proj_out.weight"),
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
    fn open_clip_names_become_transformers_names() {
        for (open_clip, transformers) in [
            ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
            ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
            ("transformer.resblocks.0.ln_1.weight", "text_model.encoder.layers.0.layer_norm1.weight"),
            ("transformer.resblocks.22.ln_2.bias", "text_model.encoder.layers.22.layer_norm2.bias"),
            (
                "transformer.resblocks.3.attn.out_proj.bias",
                "text_model.encoder.layers.3.self_attn.out_proj.bias",
            ),
            ("transformer.resblocks.10.mlp.c_fc.weight", "text_model.encoder.layers.10.mlp.fc1.weight"),
            ("transformer.resblocks.10.mlp.c_proj.bias", "text_model.encoder.layers.10.mlp.fc2.bias"),
            ("ln_final.bias", "text_model.final_layer_norm.bias"),
        ] {
            for projection in [false, true] {
                assert_eq!(open_clip_names(open_clip, 23, projection), [transformers], "{open_clip}");
            }
        }
        for parameter in ["weight", "bias"] {
            let fused = format!("transformer.resblocks.7.attn.in_proj_{parameter}");
            let layer = "text_model.encoder.layers.7.self_attn";
            let parts = ["q", "k", "v"].map(|part| format!("{layer}.{part}_proj.{parameter}"));
            assert_eq!(open_clip_names(&fused, 23, false), parts);
        }
        assert_eq!(open_clip_names("text_projection", 32, true), ["text_projection"]);
        for left_out in [
            "text_projection",
            "logit_scale",
            "attn_mask",
            "visual.conv1.weight",
            "transformer.resblocks.23.ln_1.weight",
            "transformer.resblocks.23.attn.in_proj_weight",
            "transformer.resblocks.0.attn.unknown",
        ] {
            assert_eq!(open_clip_names(left_out, 23, false), Vec::<String>::new(), "{left_out}");
        }
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
            "label_emb.0.2.bias",
            "transformer.resblocks.3.attn.in_proj_weight",
            "transformer.resblocks.3.mlp.c_fc.weight",
        ];
        for name in whole {
            for (end, _) in name.char_indices() {
                for short in [&name[..end], &format!("{}é", &name[..end])] {
                    let _ = (unet_name(short), vae_name(short), open_clip_names(short, 23, true));
                }
            }
        }
        assert_eq!(unet_name("label_emb.0"), None);
        assert_eq!(unet_name("label_emb.0.2"), None);
        for short in
            ["transformer.resblocks.", "transformer.resblocks.3", "transformer.resblocks.x.ln_1.weight"]
        {
            assert!(open_clip_names(short, 23, true).is_empty(), "{short}");
        }
        assert_eq!(unet_name("input_blocks.0"), None);
        assert_eq!(unet_name("input_blocks.99999999999999999999.0.weight"), None);
    }
}
