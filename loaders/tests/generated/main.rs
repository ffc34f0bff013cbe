//! Files made from a seed: sound ones in which one thing is broken, and blindly mutated ones.
//!
//! Random bytes hardly get past a parser's first check; a file whose every other number fits reaches the last.
//! What is refused is told in one line; what is accepted keeps what its format promises. `BAD_FILES` is how many
//! inputs each test makes, and `BAD_FILE` makes a single one.

mod config;
mod index;
mod picture;
#[path = "../made/png.rs"]
mod png_file;
mod random;
mod safetensors;
mod tokenizer;
#[path = "../made/tokenizer.rs"]
mod tokenizer_files;

use std::time::{Duration, Instant};

use photogram_loaders::Error;

use random::Random;

/// How many inputs a test makes if nobody says.
const N_INPUTS: u64 = 2_000;

/// How long an input may take; a debug build on a busy machine included.
const MAX_TIME: Duration = Duration::from_secs(20);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Tells which input was read when a test panics.
struct Input<'f> {
    format: &'f str,
    idx: u64,
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: input {}; BAD_FILE={1} makes it alone", self.format, self.idx);
        }
    }
}

/// Makes and reads inputs with `read`, which checks what is accepted; `file` is what a refusal begins with.
///
/// `share` is the part that is accepted, in hundredths, below and above which the inputs test little.
fn run(
    format: &str,
    share: std::ops::RangeInclusive<u64>,
    mut read: impl FnMut(&mut Random, u64) -> Result<(), (String, Error)>,
) {
    let started = Instant::now();
    let inputs = match number("BAD_FILE") {
        Some(idx) => idx..idx + 1,
        None => 0..number("BAD_FILES").unwrap_or(N_INPUTS),
    };
    let n = inputs.end - inputs.start;
    let mut accepted = 0;
    let mut slowest = Duration::ZERO;
    for idx in inputs {
        let input = Input { format, idx };
        let before = Instant::now();
        match read(&mut Random::of(idx), idx) {
            Ok(()) => accepted += 1,
            Err((file, error)) => {
                assert!(matches!(error, Error::Malformed { .. } | Error::Unsupported { .. }), "{error}");
                let text = error.to_string();
                assert!(text.starts_with(&format!("{file}: ")), "{text}\ndoes not name {file}");
                assert!(text.len() < 1_024 && !text.contains(char::is_control), "{text:?}");
            }
        }
        slowest = slowest.max(before.elapsed());
        assert!(slowest < MAX_TIME, "{slowest:?}");
        drop(input);
    }
    println!(
        "{format}: {n} inputs, {accepted} accepted, {} refused, {:.1} s, the slowest {:.1} ms",
        n - accepted,
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    assert!(n < 1_000 || share.contains(&(accepted * 100 / n)), "{format}: {accepted} of {n} accepted");
}
