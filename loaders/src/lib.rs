//! Files in and out: the only crate of photogram that opens files.
//!
//! It knows formats (safetensors, diffusers folders, tokenizers, pictures) and no model: which tensors a
//! network needs, and what they mean, is the engine's business. Every byte it reads is untrusted. Arithmetic
//! on it is checked, memory is bounded by [`safetensors::Limits`] and its like, no input panics, and an
//! [`Error`] names the file, the tensor or key, what was expected and what was found.
//!
//! Reading is `async` because bytes may one day come over HTTP; a [`FileSource`] never waits, so a caller
//! without an executor can block on any future of this crate.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod checkpoint;
mod config;
mod diffusers;
mod error;
mod folder;
mod json;
mod names;
mod output;
mod picture;
pub mod safetensors;
mod source;
pub mod terminal;
pub mod tokenizer;

pub use checkpoint::{Checkpoint, EncodingTotal, TensorEntry, shards_of};
pub use config::{Config, FromJson, OneOrMany};
pub use diffusers::{DiffusersFolder, Prefer, part_checkpoint, part_config, weight_files};
pub use error::Error;
pub use folder::Folder;
pub use names::Rename;
pub use output::{Abandoned, abandon_writes, create_folder, remove_abandoned, write_bytes, write_with};
pub use picture::{RgbPicture, encode_png, read_png_text, read_rgb, write_png};
pub use safetensors::Encoding;
pub use source::{BytesSource, FileSource, Reading, Source, read_range, read_whole};
pub use tokenizer::Tokenizer;
