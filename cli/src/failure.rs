//! What ends a command early: an exit code, one line, sometimes a hint.

use std::fmt::Display;

use engine::device::DeviceError;
use engine::pipelines::{PixelSize, Room};
use engine::samplers::SamplerError;
use engine::validate::ValidateError;
use engine::{Error, ErrorKind};
use kernels::DType;
use loaders::terminal::escaped;

use crate::tables::bytes;

/// The program's exit codes; success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A comparison found a difference.
    CheckFailed = 1,
    /// A flag, or a path that does not exist.
    Usage = 2,
    /// A file is not what its format or its model asks for.
    Malformed = 3,
    /// A sound file asks for something that is not implemented, or a command cannot be meant for this adapter.
    Unsupported = 4,
    /// Memory of the device.
    OutOfMemory = 5,
    /// There is no device, or it is lost.
    Gpu = 6,
    /// Infinite values, or values that are not numbers.
    NotFinite = 7,
    /// A result could not be written.
    Output = 8,
    /// A bug here.
    Bug = 70,
    /// Ctrl-C, or a request to terminate.
    Interrupted = 130,
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) code: Code,
    /// One line, safe to print.
    pub(crate) message: String,
    /// What can be done about it: one line, safe to print.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub(crate) fn new(code: Code, message: impl Display) -> Self {
        Failure { code, message: one_line(&message.to_string()), hint: None }
    }

    /// A flag with a value that makes no sense.
    pub(crate) fn usage(flag: &str, expected: impl Display, found: impl Display) -> Self {
        Failure::new(Code::Usage, format!("{flag}: expected {expected}, found {found}"))
    }

    /// The same failure with a hint.
    pub(crate) fn with_hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(one_line(&hint.to_string()));
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Usage => Code::Usage,
            ErrorKind::Malformed => Code::Malformed,
            ErrorKind::Unsupported => Code::Unsupported,
            ErrorKind::OutOfMemory => Code::OutOfMemory,
            ErrorKind::Gpu => Code::Gpu,
            ErrorKind::NotFinite => Code::NotFinite,
            ErrorKind::Output => Code::Output,
            ErrorKind::Internal => Code::Bug,
        };
        let failure = match &error {
            // A sampler knows its options by name, not that they are flags.
            Error::Sampler(SamplerError::Usage { what, expected, found }) => {
                Failure::usage(&format!("--{what}"), expected, found)
            }
            Error::Load(loaders::Error::Unsupported { file, what, .. }) => {
                Failure::new(code, loaders::Error::unsupported(file, what, ""))
            }
            error => Failure::new(code, error),
        };
        match hint(&error) {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<loaders::Error> for Failure {
    fn from(error: loaders::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Error::from(error).into()
    }
}

impl From<ValidateError> for Failure {
    fn from(error: ValidateError) -> Self {
        Error::from(error).into()
    }
}

fn hint(error: &Error) -> Option<String> {
    match error {
        Error::Load(loaders::Error::Unsupported { hint, .. }) if !hint.is_empty() => Some(hint.clone()),
        Error::Device(DeviceError::NoAdapter { found, .. }) if found == "none" => {
            Some(driver_hint().to_owned())
        }
        Error::Device(DeviceError::NoAdapter { .. }) => Some("`photogram devices` lists them".to_owned()),
        Error::Device(DeviceError::Hung { .. }) => Some(
            "another program may keep it busy, or its driver is stuck: --adapter takes another one"
                .to_owned(),
        ),
        Error::Device(DeviceError::OutOfMemory { held, .. }) => Some(held_hint(*held)),
        Error::NoRoom { least, size, smaller, dtype, .. } => {
            Some(room_hint(*size, *least, smaller.as_ref(), *dtype))
        }
        Error::Plan(_) => Some("a smaller --width and --height may fit".to_owned()),
        Error::NotFinite { .. } => {
            Some("either weights are not finite, or f16 overflows, which --precision f32 does not".to_owned())
        }
        _ => None,
    }
}

/// What there is room for, where a picture of `size` with a denoiser in `dtype` takes `least` bytes.
pub(crate) fn room_hint(size: PixelSize, least: u64, smaller: Option<&Room>, dtype: DType) -> String {
    let needs = format!("{size} needs --max-vram {}", flag_size(least, u64::div_ceil));
    match (smaller, dtype) {
        (Some(Room { size, peak_bytes }), _) => {
            format!("{size} would fit in {}; {needs}", bytes(*peak_bytes))
        }
        (None, DType::F32) => format!("{needs}; no smaller size would fit; --precision f16 takes less"),
        (None, _) => format!("{needs}; no smaller size would fit"),
    }
}

/// What can be done where a device had no more than `held` bytes.
fn held_hint(held: u64) -> String {
    let less = "a smaller --width and --height needs less, and so does --precision f16 for what runs in f32";
    if held < KIB {
        return less.to_owned();
    }
    let limit = flag_size(held, |held, unit| held / unit);
    format!("it held {} by then: --max-vram {limit} keeps less there; {less}", bytes(held))
}

const KIB: u64 = 1 << 10;

/// About so many bytes as --max-vram takes them: whole units of at most 1 %, divided as `divided` does.
fn flag_size(bytes: u64, divided: fn(u64, u64) -> u64) -> String {
    let (unit, name) = if bytes < 100 * KIB * KIB { (KIB, "K") } else { (KIB * KIB, "M") };
    format!("{}{name}", divided(bytes, unit))
}

/// How to get an adapter.
pub(crate) fn driver_hint() -> &'static str {
    if cfg!(target_os = "linux") {
        "install the driver of your GPU, or the software driver: apt install mesa-vulkan-drivers (Debian, Ubuntu)"
    } else {
        "install the driver of your GPU"
    }
}

/// `text` on one line, with every control character spelled out.
pub(crate) fn one_line(text: &str) -> String {
    let joined = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let chars: Vec<char> = joined.chars().collect();
    // `escaped` shows 200 characters at most.
    chars.chunks(200).map(|chunk| escaped(&chunk.iter().collect::<String>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_code() {
        let load = |error| Failure::from(Error::Load(error)).code;
        assert_eq!(load(loaders::Error::NotFound { path: "x".into() }), Code::Usage);
        assert_eq!(load(loaders::Error::malformed("f", "w", "e", "g")), Code::Malformed);
        assert_eq!(load(loaders::Error::unsupported("f", "w", "")), Code::Unsupported);
        let full =
            loaders::Error::Output { path: "x".into(), source: std::io::ErrorKind::StorageFull.into() };
        assert_eq!(load(full), Code::Output);
        let device = |error| Failure::from(Error::Device(error)).code;
        assert_eq!(device(DeviceError::Lost { reason: "reset".into() }), Code::Gpu);
        let hung = DeviceError::Hung { waited: std::time::Duration::from_millis(299_500) };
        let hung = Failure::from(Error::Device(hung));
        assert_eq!(hung.code, Code::Gpu);
        assert_eq!(hung.message, "GPU hung: it has not finished what it was given for 300 s");
        assert_eq!(
            device(DeviceError::OutOfMemory { label: "x".into(), bytes: 2, held: 1 }),
            Code::OutOfMemory
        );
        assert_eq!(device(DeviceError::Refused { message: "x".into() }), Code::Bug);
        let not_finite = Error::NotFinite { stage: "latent".into(), count: 1, total: 4 };
        assert_eq!(Failure::from(not_finite).code, Code::NotFinite);
    }

    #[test]
    fn a_hint_names_sizes_that_do() {
        let size = PixelSize { width: 512, height: 256 };
        let smaller = Room { size: PixelSize { width: 384, height: 192 }, peak_bytes: 5 << 28 };
        let least = (1946 << 20) - 1;
        let (phase, dtype) = ("decoder".into(), DType::F32);
        let error = Error::NoRoom { limit: 1, least, phase, size, smaller: Some(smaller), dtype };
        let hint = Failure::from(error).hint;
        assert_eq!(hint.as_deref(), Some("384x192 would fit in 1.2 GiB; 512x256 needs --max-vram 1946M"));
        assert_eq!(
            room_hint(size, (100 << 20) - 1, None, DType::F32),
            "512x256 needs --max-vram 102400K; no smaller size would fit; --precision f16 takes less"
        );
        assert_eq!(
            room_hint(size, (100 << 20) - 1, None, DType::F16),
            "512x256 needs --max-vram 102400K; no smaller size would fit"
        );
        let full = |held| {
            Failure::from(DeviceError::OutOfMemory { label: "x".into(), bytes: 9, held }).hint.unwrap()
        };
        assert!(
            full((200 << 20) - 1)
                .starts_with("it held 200.0 MiB by then: --max-vram 199M keeps less there; a")
        );
        assert!(full(1_023).starts_with("a smaller --width"));
    }

    #[test]
    fn a_hint_stands_apart_from_the_message() {
        let failure = Failure::from(loaders::Error::unsupported("m.ckpt", "a pickle", "convert it"));
        assert_eq!(failure.message, "m.ckpt: a pickle is not supported");
        assert_eq!(failure.hint.as_deref(), Some("convert it"));
    }

    #[test]
    fn a_samplers_option_is_named_as_a_flag() {
        let error = SamplerError::Usage { what: "steps", expected: "1 to 1000".into(), found: "0".into() };
        assert_eq!(Failure::from(Error::from(error)).message, "--steps: expected 1 to 1000, found 0");
    }

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        assert_eq!(one_line("a\n  b\u{1b}[2J\r\n\nc"), "a b\\u{1b}[2J c");
        let long = "é".repeat(1_000);
        assert_eq!(one_line(&long), long);
    }
}
