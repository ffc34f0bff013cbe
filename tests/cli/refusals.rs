//! What is refused: one line, the right exit code, nothing written.

use crate::support::{Row, check_refusals, fixture, has_adapter, workplace};

/// Words that come before each row's of a table about `generate`: what is wrong with flags and files' headers is found
/// before a device is looked for.
const GENERATE: [&str; 5] = ["generate", "-p", "x", "--adapter", "no such adapter"];

#[test]
fn flags_that_make_no_sense_are_refused() {
    let folder = workplace();
    let long = "9".repeat(10_000);
    let rows: &[Row<'_>] = &[
        (&["-W", "0"], 2, &["--width", "multiple of 8", "found 0"]),
        (&["-W", "4"], 2, &["--width", "multiple of 8 from 8 up", "found 4"]),
        (&["-m", "pads-one-side", "-W", "32"], 2, &["--width", "multiple of 8 from 64 up", "found 32"]),
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["-W", "-8"], 2, &["--width", "-8", "whole number"]),
        (&["-H", "1000000"], 2, &["--height", "16384", "found 1000000"]),
        (&["--height", "x"], 2, &["--height", "'x'"]),
        (&["--steps", "0"], 2, &["--steps", "1 to 1000", "found 0"]),
        (&["--steps", "1000000"], 2, &["--steps", "1 to 1000", "found 1000000"]),
        (&["--steps", "1.5"], 2, &["--steps", "'1.5'"]),
        (&["--steps", &long], 2, &["--steps", "whole number"]),
        (&["--steps", "\u{202e}4"], 2, &["--steps", "\\u{202e}4"]),
        (&["--sampler", "heun"], 2, &["--sampler", "'heun'", "dpm++2m"]),
        (&["--schedule", "cosine"], 2, &["--schedule", "'cosine'", "karras"]),
        (&["--schedule", "karras"], 2, &["--schedule", "ddim", "karras"]),
        (&["--sampler", "pndm", "--schedule", "karras"], 2, &["--schedule", "pndm", "karras"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--cfg-scale", "1e999"], 2, &["--cfg-scale", "finite", "inf"]),
        (&["--seed", "9223372036854775808"], 2, &["--seed"]),
        (&["-b", "0"], 2, &["--batch-count", "found 0"]),
        (&["--precision", "f8"], 2, &["--precision", "'f8'"]),
        (&["--prediction", "x0"], 2, &["--prediction", "'x0'"]),
        (&["--rng", "mtl"], 2, &["--rng", "'mtl'"]),
        (&["--strength", "0.5"], 2, &["--strength", "--init-img"]),
        (&["--stesp", "4"], 2, &["--stesp"]),
        (&["-q", "-v"], 2, &["--quiet", "--verbose"]),
        (&["-o", "out.jpg"], 2, &["--output", ".png", "out.jpg"]),
        (&["-b", "2", "--latents", "small-noise.safetensors"], 2, &["--latents", "--batch-count 2"]),
    ];
    check_refusals(folder.path(), &GENERATE, rows);
    let rows: &[Row<'_>] = &[
        (&["draw"], 2, &["draw"]),
        (&["generate"], 2, &["--prompt"]),
        (&["inspect"], 2, &["<PATH>"]),
        (&["validate", "--precision", "f16"], 2, &["--reference"]),
        (&["plan", "-m", "absent", "--strength", "0.5"], 2, &["--strength", "--init-img"]),
    ];
    check_refusals(folder.path(), &[], rows);
    let rows: &[Row<'_>] = &[
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["-H", "0"], 2, &["--height", "multiple of 8", "found 0"]),
        (&["-W", "x"], 2, &["--width", "'x'"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--repeat", "0"], 2, &["--repeat", "1 to 1000", "found 0"]),
        (&["--repeat", "1001"], 2, &["--repeat", "1 to 1000", "found 1001"]),
        (&["--depth", "0"], 2, &["--depth", "1 or more"]),
        (&["--top", "0"], 2, &["--top", "1 or more"]),
        (&["--top", "-1"], 2, &["--top", "whole number"]),
        (&["--steps", "4"], 2, &["--steps"]),
        (&["--precision", "f8"], 2, &["--precision", "'f8'"]),
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "refiner"], 2, &["--model", "a refiner alone"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
        (&["--trace", "absent/trace.json"], 8, &["absent/trace.json", "no folder 'absent'"]),
    ];
    check_refusals(folder.path(), &["profile", "--adapter", "no such adapter"], rows);
    let rows: &[Row<'_>] = &[
        (&["-W", "100"], 2, &["--width", "multiple of 8", "found 100"]),
        (&["--cfg-scale", "nan"], 2, &["--cfg-scale", "finite", "NaN"]),
        (&["--prompt", "x"], 2, &["--prompt"]),
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
    ];
    check_refusals(folder.path(), &["tune", "--adapter", "no such adapter"], rows);
}

#[test]
fn files_that_cannot_be_used_are_refused() {
    let folder = workplace();
    let init = fixture("pipelines/sd1_layout/pndm_img2img/init.png");
    let init = init.to_str().expect("UTF-8");
    let rows: &[Row<'_>] = &[
        (&["-m", "absent"], 2, &["absent", "no such file or folder"]),
        (&["-m", "nothing"], 3, &["nothing", "model_index.json"]),
        (&["-m", "model/unet"], 3, &["model/unet", "model_index.json"]),
        (&["-m", "no-vae"], 3, &["no-vae", "vae"]),
        (&["-m", "bad-json"], 3, &["bad-json/unet/config.json"]),
        (&["-m", "truncated"], 3, &["truncated/unet/diffusion_pytorch_model.safetensors"]),
        (&["-m", "empty.safetensors"], 3, &["empty.safetensors"]),
        (&["-m", "huge-header.safetensors"], 3, &["huge-header.safetensors"]),
        (&["-m", "zip.safetensors"], 4, &["zip.safetensors"]),
        (&["-m", "pickle.safetensors"], 4, &["pickle.safetensors"]),
        (&["-m", "gguf.safetensors"], 4, &["gguf.safetensors", "GGUF"]),
        (&["-m", "lora.safetensors"], 4, &["lora.safetensors", "LoRA"]),
        (&["-m", "flux.safetensors"], 4, &["flux.safetensors", "FLUX.1"]),
        (&["-m", "unknown.safetensors"], 4, &["unknown.safetensors"]),
        (&["-m", "pickled"], 4, &["pickled/unet/diffusion_pytorch_model.bin", "pickle"]),
        (&["-m", "flux"], 4, &["flux/model_index.json", "FluxPipeline"]),
        (&["-m", "xl-no-tokenizer"], 3, &["xl-no-tokenizer", "tokenizer_2/"]),
        (&["-m", "xl-one-encoder"], 3, &["xl-one-encoder", "text_encoder_2/"]),
        (&["-m", "xl-other-numbers"], 3, &["projection_class_embeddings_input_dim", "expected 60, found 68"]),
        (&["-m", "xl-short-prompt"], 3, &["tokens of a prompt to text_encoder_2", "found 12"]),
        (&["-m", "refiner"], 2, &["--model", "--refiner"]),
        (&["-m", "refiner", "--refiner", "refiner"], 2, &["--model", "a refiner"]),
        (&["-m", "xl", "--refiner", "lora.safetensors"], 4, &["lora.safetensors", "LoRA"]),
        (&["-m", "xl", "--refiner", "vae-8"], 3, &["vae-8", "model_index.json"]),
        (&["--refiner", "refiner"], 2, &["--refiner", "8 latent channels", "4 at 1/8"]),
        (&["-m", "model", "--crop", "3x3"], 2, &["--crop", "a model of Stable Diffusion XL"]),
        (&["-m", "model", "--refiner", "refiner"], 2, &["--refiner", "beside Stable Diffusion,", "XL"]),
        (&["-m", "xl", "--refiner", "model"], 2, &["--refiner", "beside Stable Diffusion XL,"]),
        (&["-m", "xl", "--refiner-start", "0.5"], 2, &["--refiner-start", "--refiner beside it"]),
        (&["-m", "xl", "--refiner", "refiner", "--refiner-start", "1"], 2, &["--refiner-start", "found 1"]),
        (&["-m", "xl", "--vae", "vae-8"], 3, &["vae-8", "latent channels", "found 8"]),
        (&["-m", "xl", "--vae", "lora.safetensors"], 3, &["lora.safetensors", "encoder.conv_in.weight"]),
        (&["-m", "xl", "--vae", "absent"], 2, &["absent"]),
        (&["-m", "xl", "--original-size", "big"], 2, &["--original-size", "1024x768"]),
        (&["-m", "xl", "--guidance-rescale", "2"], 2, &["--guidance-rescale", "0 to 1"]),
        (&["-m", "unknown-scheduler"], 4, &["unknown-scheduler/scheduler", "LCMScheduler"]),
        (&["--init-img", "absent.png"], 2, &["absent.png"]),
        (&["--init-img", "text.png"], 4, &["text.png", "PNG"]),
        (&["--init-img", "cut.png"], 3, &["cut.png"]),
        (&["--init-img", init, "--strength", "2"], 2, &["--strength", "found 2"]),
        (&["--init-img", init, "--strength", "0"], 2, &["--strength", "found 0"]),
        (&["--init-img", init, "--strength", "nan"], 2, &["--strength", "NaN"]),
        (&["--init-img", init, "-W", "33"], 2, &["--width", "found 33"]),
        (&["--latents", "absent.safetensors"], 2, &["absent.safetensors"]),
        (&["--latents", "small-noise.safetensors"], 3, &["'noise'", "F32[1, 8, 16, 16]", "F32[1, 2, 2, 2]"]),
        (&["-o", "taken.png"], 8, &["taken.png", "directory"]),
        (&["-o", "absent/out.png"], 8, &["absent/out.png", "no folder 'absent'"]),
        (&["--stats", "absent/stats.json"], 8, &["absent/stats.json"]),
        (&["--dump", "absent"], 8, &["absent"]),
    ];
    check_refusals(folder.path(), &GENERATE, rows);
    let rows: &[Row<'_>] = &[
        (&["inspect", "absent"], 2, &["absent"]),
        (&["inspect", "gguf.safetensors"], 4, &["GGUF"]),
        (&["inspect", "empty.safetensors"], 3, &["empty.safetensors"]),
    ];
    check_refusals(folder.path(), &[], rows);
}

#[test]
fn models_that_cannot_draw_are_refused() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let rows: &[Row<'_>] = &[
        (&["-m", "missing"], 3, &["missing/unet/", "'conv_in.bias'"]),
        (&["-m", "misshapen"], 3, &["misshapen/unet/", "'conv_in.weight'", "expected", "found"]),
        (&["-m", "integers"], 4, &["integers/unet/", "'conv_in.bias'", "dtype I"]),
        (&["-m", "not-finite", "--steps", "1"], 7, &["not finite"]),
        (&["-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
    ];
    check_refusals(folder.path(), &["generate", "-p", "x"], rows);
    let rows: &[Row<'_>] = &[
        (&["validate", "--reference", "absent"], 2, &["absent/reference.json"]),
        (&["profile", "-m", "missing"], 3, &["missing/unet/", "'conv_in.bias'"]),
        (&["profile", "-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
        (&["tune", "-m", "model", "--adapter", "no such adapter"], 6, &["no such adapter"]),
    ];
    check_refusals(folder.path(), &[], rows);
}
