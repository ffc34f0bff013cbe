//! Checkpoints in one file, with the names of the original `ldm` and `sgm` code.
//!
//! Source: the module trees of CompVis/stable-diffusion and Stability-AI/generative-models; diffusers.loaders.single_file_utils
//! for the detection keys.

mod family;
mod names;
mod training;

use loaders::terminal::escaped;
use loaders::{Checkpoint, Error};

pub(super) use family::{Family, family, require_family};
pub use training::Training;
pub(super) use training::{FLAGS, training};

use names::{open_clip_names, unet_name, vae_name};

/// What the UNet's tensors begin with in all families.
const UNET_PREFIX: &str = "model.diffusion_model.";

/// One network of a family and where a file has it.
pub(super) struct Part {
    /// Its folder's name in a diffusers folder.
    pub(super) folder: &'static str,
    /// What messages call it.
    role: &'static str,
    /// What the names of its tensors begin with.
    prefix: &'static str,
    names: Names,
}

/// Whose names the tensors of a part have.
enum Names {
    /// transformers': they stay.
    Transformers,
    /// OpenCLIP's, with the layers that are used and whether the projection is.
    OpenClip { layers: usize, projection: bool },
    /// Those of ldm's UNet.
    Unet,
    /// Those of ldm's autoencoder.
    Vae,
}

/// The UNet of every family.
pub(super) const UNET: Part =
    Part { folder: "unet", role: "the UNet", prefix: UNET_PREFIX, names: Names::Unet };

/// The autoencoder of every family.
pub(super) const VAE: Part =
    Part { folder: "vae", role: "the VAE", prefix: "first_stage_model.", names: Names::Vae };

impl Part {
    /// The part of `file`, under diffusers' or transformers' names; tensors that the family does not use are left out.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the part if it is missing, or a tensor whose rows are not three projections.
    pub(super) fn of(&self, file: &Checkpoint) -> Result<Checkpoint, Error> {
        let part = self.names.replace(&file.scoped(self.prefix))?;
        if part.names().len() == 0 {
            let expected = format!("tensors named '{}...'", self.prefix.trim_end_matches('.'));
            return Err(Error::malformed(file.label(), self.role, expected, "none"));
        }
        // A tensor that is missing has no name in the file: messages have the one that was looked for.
        Ok(part.labelled(format!("{}: {}, names as in diffusers", file.label(), self.role)))
    }
}

impl Names {
    fn replace(&self, part: &Checkpoint) -> Result<Checkpoint, Error> {
        match self {
            Names::Transformers => Ok(part.clone()),
            Names::OpenClip { layers, projection } => {
                part.split_with(|name| open_clip_names(name, *layers, *projection))
            }
            Names::Unet => part.renamed_with(|name| Some(unet_name(name).unwrap_or_else(|| name.to_owned()))),
            Names::Vae => part.renamed_with(|name| Some(vae_name(name).unwrap_or_else(|| name.to_owned()))),
        }
    }
}

/// The autoencoder in `file`, which has nothing else or is a whole checkpoint, under diffusers' names.
///
/// It may have ldm's names, with `first_stage_model.` in front or not, or diffusers' own.
///
/// # Errors
/// [`Error::Malformed`] if there is no autoencoder in it.
pub(super) fn vae_from(file: &Checkpoint) -> Result<Checkpoint, Error> {
    // The one tensor whose name is the same in both.
    const KEY: &str = "encoder.conv_in.weight";
    let within = file.scoped(VAE.prefix);
    let vae = [&within, file].into_iter().find(|vae| vae.get(KEY).is_some());
    let vae = vae.ok_or_else(|| {
        let expected = format!("tensor '{KEY}' or '{}{KEY}'", VAE.prefix);
        let first = file.names().next();
        let found = first.map_or("no tensor".to_owned(), |name| {
            format!("none of that name among {}, such as '{}'", file.names().len(), escaped(name))
        });
        Error::malformed(file.label(), VAE.role, expected, found)
    })?;
    // A name of diffusers' is none of ldm's and stays.
    VAE.names.replace(vae)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use loaders::BytesSource;
    use loaders::safetensors::{Data, Limits, Tensor, to_bytes};
    use pollster::block_on;

    use super::*;
    use crate::pipelines::request::PredictionType;
    use family::Kind;
    use training::Training;

    type Tensors<'a> = Vec<(&'a str, Vec<f32>, Vec<usize>)>;

    fn file_of(tensors: &Tensors<'_>) -> Checkpoint {
        file_with(tensors, &BTreeMap::new())
    }

    fn file_with(tensors: &Tensors<'_>, metadata: &BTreeMap<String, String>) -> Checkpoint {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, values, shape)| Tensor { name, shape, data: Data::F32(values) })
            .collect();
        let bytes = to_bytes(&tensors, metadata).expect("sound tensors");
        let source = Arc::new(BytesSource::new("m.safetensors", bytes));
        block_on(Checkpoint::from_source(source, &Limits::default())).expect("a sound file")
    }

    /// A file of zeros.
    fn file(tensors: &[(&str, &[usize])]) -> Checkpoint {
        let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
        file_of(&tensors.iter().map(|(name, shape)| (*name, zeros(shape), shape.to_vec())).collect())
    }

    fn found(tensors: &[(&str, &[usize])]) -> Option<Kind> {
        family(&file(tensors))
    }

    const INPUT: &str = "model.diffusion_model.input_blocks.0.0.weight";
    const KEYS_1: &str = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    const KEYS_4: &str = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";
    const VAE_INPUT: &str = "first_stage_model.encoder.conv_in.weight";
    const IN_PROJ: &str = "transformer.resblocks.0.attn.in_proj_weight";

    /// A file of each family: of every part the tensors that tell something.
    fn sample(family: Family) -> Checkpoint {
        match family {
            Family::StableDiffusion1 => file(&[
                (INPUT, &[1, 4, 1, 1]),
                (KEYS_1, &[1, 768]),
                ("cond_stage_model.transformer.text_model.final_layer_norm.weight", &[2]),
                ("cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.bias", &[2]),
                (VAE_INPUT, &[1]),
                ("first_stage_model.decoder.mid.attn_1.q.weight", &[2, 2, 1, 1]),
                ("model_ema.decay", &[]),
            ]),
            Family::StableDiffusion2 => file(&[
                (INPUT, &[1, 4, 1, 1]),
                (KEYS_1, &[1, 1024]),
                ("cond_stage_model.model.ln_final.weight", &[2]),
                ("cond_stage_model.model.logit_scale", &[]),
                ("cond_stage_model.model.text_projection", &[2, 2]),
                ("cond_stage_model.model.positional_embedding", &[3, 2]),
                ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", &[6, 2]),
                ("cond_stage_model.model.transformer.resblocks.22.ln_1.weight", &[2]),
                ("cond_stage_model.model.transformer.resblocks.23.ln_1.weight", &[2]),
                ("cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight", &[6, 2]),
                (VAE_INPUT, &[1]),
            ]),
            Family::StableDiffusionXl => file(&[
                (INPUT, &[1, 4, 1, 1]),
                (KEYS_4, &[1, 2048]),
                ("model.diffusion_model.label_emb.0.0.weight", &[2, 3]),
                ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", &[2]),
                ("conditioner.embedders.1.model.ln_final.weight", &[3]),
                ("conditioner.embedders.1.model.logit_scale", &[]),
                ("conditioner.embedders.1.model.text_projection", &[3, 3]),
                ("conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias", &[9]),
                (VAE_INPUT, &[1]),
            ]),
            Family::StableDiffusionXlRefiner => file(&[
                (INPUT, &[1, 4, 1, 1]),
                (KEYS_4, &[1, 1280]),
                ("model.diffusion_model.label_emb.0.2.bias", &[2]),
                ("conditioner.embedders.0.model.ln_final.bias", &[3]),
                ("conditioner.embedders.0.model.text_projection", &[3, 3]),
                (VAE_INPUT, &[1]),
            ]),
        }
    }

    const FAMILIES: [Family; 4] = [
        Family::StableDiffusion1,
        Family::StableDiffusion2,
        Family::StableDiffusionXl,
        Family::StableDiffusionXlRefiner,
    ];

    #[test]
    fn each_family_is_recognised_with_a_part_missing_too() {
        for wanted in FAMILIES {
            let whole = sample(wanted);
            assert_eq!(family(&whole), Some(Kind::Family(wanted)));
            for part in wanted.text_encoders().iter().chain([&UNET, &VAE]) {
                let rest =
                    whole.renamed_with(|name| (!name.starts_with(part.prefix)).then(|| name.to_owned()));
                let rest = rest.expect("names stay");
                assert_eq!(family(&rest), Some(Kind::Family(wanted)), "{wanted:?} without {}", part.role);
                let expected = format!(
                    "m.safetensors: {}: expected tensors named '{}...', found none",
                    part.role,
                    part.prefix.trim_end_matches('.')
                );
                assert_eq!(part.of(&rest).err().map(|e| e.to_string()), Some(expected));
                // The others are there all the same.
                for other in wanted.text_encoders().iter().chain([&UNET, &VAE]) {
                    assert_eq!(other.of(&rest).is_ok(), other.prefix != part.prefix, "{}", other.role);
                }
            }
        }
        let error = Family::StableDiffusionXl.text_encoders()[1].of(&file(&[("x", &[1])]));
        assert_eq!(
            error.err().map(|e| e.to_string()).as_deref(),
            Some(
                "m.safetensors: the second text encoder: expected tensors named \
                 'conditioner.embedders.1.model...', found none"
            )
        );
    }

    #[test]
    fn parts_have_the_names_of_their_networks() {
        let text = |name: &str| format!("text_model.{name}");
        let projections = |layer: usize, parameter: &str| -> Vec<String> {
            let layer = text(&format!("encoder.layers.{layer}.self_attn"));
            ["k", "q", "v"].map(|part| format!("{layer}.{part}_proj.{parameter}")).into()
        };
        let norm = |parameter: &str| vec![text(&format!("final_layer_norm.{parameter}"))];
        let encoders = |family| -> Vec<Vec<String>> {
            match family {
                Family::StableDiffusion1 => {
                    vec![[vec![text("encoder.layers.11.mlp.fc1.bias")], norm("weight")].concat()]
                }
                Family::StableDiffusion2 => vec![
                    [
                        vec![text("embeddings.position_embedding.weight")],
                        projections(0, "weight"),
                        vec![text("encoder.layers.22.layer_norm1.weight")],
                        norm("weight"),
                    ]
                    .concat(),
                ],
                Family::StableDiffusionXl => vec![
                    norm("weight"),
                    [projections(31, "bias"), norm("weight"), vec!["text_projection".to_owned()]].concat(),
                ],
                Family::StableDiffusionXlRefiner => {
                    vec![[norm("bias"), vec!["text_projection".to_owned()]].concat()]
                }
            }
        };
        let names = |part: &Checkpoint| part.names().map(str::to_owned).collect::<Vec<_>>();
        for family in FAMILIES {
            let file = sample(family);
            let of = |part: &Part| part.of(&file).expect("every part is there");
            let found: Vec<_> = family.text_encoders().iter().map(|part| names(&of(part))).collect();
            assert_eq!(found, encoders(family), "{family:?}");
            let unet = names(&of(&UNET));
            assert!(unet.contains(&"conv_in.weight".to_owned()), "{unet:?}");
            let is_added = |name: &String| name.starts_with("add_embedding.");
            let is_xl = matches!(family, Family::StableDiffusionXl | Family::StableDiffusionXlRefiner);
            assert_eq!(unet.iter().any(is_added), is_xl, "{unet:?}");
            assert!(of(&VAE).get("encoder.conv_in.weight").is_some());
        }
        let folders = |family: Family| family.text_encoders().iter().map(|e| e.folder).collect::<Vec<_>>();
        assert_eq!(folders(Family::StableDiffusionXl), ["text_encoder", "text_encoder_2"]);
        assert_eq!(folders(Family::StableDiffusionXlRefiner), ["text_encoder_2"]);
    }

    #[test]
    fn other_models_are_named() {
        let labels = "model.diffusion_model.label_emb.0.0.weight";
        let variants: [(&str, usize, usize, &str); 9] = [
            (KEYS_1, 768, 9, "Stable Diffusion 1.x inpainting"),
            (KEYS_1, 768, 8, "InstructPix2Pix"),
            (KEYS_1, 1024, 9, "Stable Diffusion 2.x inpainting"),
            (KEYS_1, 1024, 5, "Stable Diffusion 2.x depth"),
            (KEYS_4, 1024, 7, "the Stable Diffusion x4 upscaler"),
            (KEYS_1, 1024, 8, "Stable Video Diffusion"),
            (KEYS_4, 2048, 9, "Stable Diffusion XL inpainting"),
            (KEYS_4, 2048, 8, "Stable Diffusion XL InstructPix2Pix"),
            (KEYS_1, 512, 4, "an unknown variant of Stable Diffusion"),
        ];
        for (keys, context, inputs, expected) in variants {
            let kind = found(&[(keys, &[1, context]), (INPUT, &[1, inputs, 1, 1])]);
            assert_eq!(kind, Some(Kind::Other(expected)));
        }
        let unclip = found(&[(KEYS_1, &[1, 1024]), (INPUT, &[1, 4, 1, 1]), (labels, &[1, 1])]);
        assert_eq!(unclip, Some(Kind::Other("Stable unCLIP 2.1")));

        for (key, expected) in [
            (
                "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
                "Stable Diffusion 3",
            ),
            ("joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
            ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
            ("double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
            ("single_stream_modulation.lin.weight", "FLUX.2"),
            ("control_model.input_blocks.0.0.weight", "a ControlNet"),
            ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "a LoRA"),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "a LoRA"),
            ("unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", "a LoRA"),
        ] {
            assert_eq!(found(&[(key, &[1])]), Some(Kind::Other(expected)), "{key}");
        }
        // A model's own tensors beside those that give it away.
        let playground = found(&[(KEYS_4, &[1, 2048]), (INPUT, &[1, 4, 1, 1]), ("edm_mean", &[4])]);
        assert_eq!(playground.map(Kind::name), Some("Playground 2.5"));
        let flux_2 = [
            ("double_blocks.0.img_attn.norm.key_norm.scale", &[1][..]),
            ("single_stream_modulation.lin.weight", &[1]),
        ];
        assert_eq!(found(&flux_2).map(Kind::name), Some("FLUX.2"));

        assert_eq!(found(&[("x", &[1])]), None);
        assert_eq!(found(&[(KEYS_1, &[768]), (INPUT, &[4])]), None);
    }

    #[test]
    fn a_file_of_another_model_is_refused_in_one_line() {
        let message =
            |tensors: &[(&str, &[usize])]| require_family(&file(tensors)).err().map(|e| e.to_string());
        let hint = "(hint: photogram reads Stable Diffusion 1.x, 2.x and XL from a single file)";
        assert_eq!(
            message(&[("double_blocks.0.img_attn.norm.key_norm.scale", &[1])]),
            Some(format!("m.safetensors: a checkpoint of FLUX.1 is not supported {hint}"))
        );
        assert_eq!(
            message(&[("lora_unet_x.lora_up.weight", &[1])]),
            Some(format!("m.safetensors: a LoRA is not supported {hint}"))
        );
        let hint = "(hint: none of its tensors belongs to a model family photogram knows)";
        assert_eq!(
            message(&[("x", &[1])]),
            Some(format!("m.safetensors: this checkpoint is not supported {hint}"))
        );
    }

    #[test]
    fn a_fused_projection_that_is_not_three_names_its_tensor() {
        let encoder = &Family::StableDiffusion2.text_encoders()[0];
        let name = format!("{}{IN_PROJ}", encoder.prefix);
        for (shape, found) in [(&[5, 2][..], "F32[5, 2]"), (&[], "F32[]")] {
            let error = encoder.of(&file(&[(&name, shape)])).err().map(|e| e.to_string());
            let expected = format!(
                "m.safetensors: tensor '{name}': expected a number of rows that is a multiple of 3, found {found}"
            );
            assert_eq!(error, Some(expected));
        }
    }

    #[test]
    fn an_autoencoder_is_found_under_all_its_names() {
        let ldm =
            ["encoder.conv_in.weight", "decoder.mid.attn_1.q.weight", "decoder.up.3.block.0.conv1.bias"];
        let diffusers = [
            "decoder.mid_block.attentions.0.to_q.weight",
            "decoder.up_blocks.0.resnets.0.conv1.bias",
            "encoder.conv_in.weight",
        ];
        let prefixed = ldm.map(|name| format!("first_stage_model.{name}"));
        let whole: Vec<&str> = prefixed.iter().map(String::as_str).chain([KEYS_1, "encoder.x"]).collect();
        for names in [&ldm[..], &diffusers[..], &whole[..]] {
            let file = file(&names.iter().map(|name| (*name, &[1][..])).collect::<Vec<_>>());
            let vae = vae_from(&file).unwrap_or_else(|e| panic!("{names:?}: {e}"));
            assert_eq!(vae.names().collect::<Vec<_>>(), diffusers, "{names:?}");
        }
        let error = |tensors: &[(&str, &[usize])]| vae_from(&file(tensors)).err().map(|e| e.to_string());
        let expected = "m.safetensors: the VAE: expected tensor 'encoder.conv_in.weight' or \
                        'first_stage_model.encoder.conv_in.weight', found";
        assert_eq!(
            error(&[("b\u{1b}", &[1]), ("c", &[1])]),
            Some(format!("{expected} none of that name among 2, such as 'b\\u{{1b}}'"))
        );
        assert_eq!(error(&[]), Some(format!("{expected} no tensor")));
    }

    #[test]
    fn what_is_predicted_is_told_by_flags_and_by_the_spread_of_a_norm() {
        const NORM: &str = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
        let training_of = |family, tensors: Tensors<'_>| block_on(training(&file_of(&tensors), family));
        let flag = |name| (name, Vec::new(), vec![0]);
        // Standard deviation: half the distance.
        let norm = |distance: f32| (NORM, vec![3.0, 3.0 + distance, 3.0, 3.0 + distance], vec![4]);
        let (epsilon, v) = (PredictionType::Epsilon, PredictionType::V);
        for (family, tensors, prediction, zero_terminal_snr) in [
            (Family::StableDiffusion1, vec![norm(1.0)], epsilon, false),
            (Family::StableDiffusion2, vec![norm(0.17)], epsilon, false),
            (Family::StableDiffusion2, vec![norm(0.19)], v, false),
            (Family::StableDiffusion2, vec![norm(f32::NAN)], epsilon, false),
            (Family::StableDiffusion2, vec![flag("v_pred")], v, false),
            (Family::StableDiffusionXl, vec![norm(1.0)], epsilon, false),
            (Family::StableDiffusionXl, vec![flag("v_pred")], v, false),
            (Family::StableDiffusionXl, vec![flag("v_pred"), flag("ztsnr")], v, true),
            (Family::StableDiffusionXlRefiner, vec![flag("ztsnr")], epsilon, true),
        ] {
            let case = format!("{family:?} {tensors:?}");
            let found = training_of(family, tensors).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(found, Training { prediction, zero_terminal_snr }, "{case}");
        }
        for (family, tensors, word, prediction) in [
            (Family::StableDiffusion1, vec![], "v", v),
            (Family::StableDiffusionXl, vec![], "v_prediction", v),
            (Family::StableDiffusion2, vec![norm(0.19)], "epsilon", epsilon),
            (Family::StableDiffusion2, vec![norm(0.19)], "", v),
            (Family::StableDiffusionXl, vec![flag("v_pred")], "epsilon", v),
            (Family::StableDiffusionXl, vec![], "x\u{1b}", epsilon),
        ] {
            let metadata = [("modelspec.prediction_type".to_owned(), word.to_owned())].into();
            let found = block_on(training(&file_with(&tensors, &metadata), family));
            let found = found.unwrap_or_else(|e| panic!("{family:?} {tensors:?} {word}: {e}"));
            assert_eq!(found.prediction, prediction, "{family:?} {tensors:?} {word}");
        }
        for (tensors, expected) in [
            (vec![], "expected a tensor, found none of that name among 0"),
            (vec![(NORM, vec![1.0], vec![1, 1])], "expected a vector of 1 to 65536 floats, found F32[1, 1]"),
            (vec![(NORM, Vec::new(), vec![0])], "expected a vector of 1 to 65536 floats, found F32[0]"),
            (vec![(NORM, vec![0.0; 65_537], vec![65_537])], "found F32[65537]"),
        ] {
            let error = training_of(Family::StableDiffusion2, tensors).expect_err(expected).to_string();
            assert!(error.contains(NORM) && error.ends_with(expected), "{error}");
        }
    }
}
