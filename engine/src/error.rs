//! Everything that can keep a picture from being made, and what kind of failure each is.

use kernels::{DType, OpError};

use crate::device::DeviceError;
use crate::graph::GraphError;
use crate::pipelines::{PixelSize, Room};
use crate::plan::PlanError;
use crate::samplers::SamplerError;
use crate::validate::ValidateError;

/// A failure with its message on one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense: a flag's value, a size.
    #[error("{what}: expected {expected}, found {found}")]
    Usage {
        /// The request's field, by its flag's name.
        what: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file.
    #[error(transparent)]
    Load(#[from] loaders::Error),
    /// A model's parts do not fit together.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A model does not fit the adapter.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A picture takes more memory than it may.
    #[error("out of GPU memory: {phase} takes {least} bytes at least, {limit} are allowed")]
    NoRoom {
        /// Bytes that may be on the device at once.
        limit: u64,
        /// The least that any way to work takes.
        least: u64,
        /// What takes them.
        phase: String,
        /// The picture's size.
        size: PixelSize,
        /// What there is room for instead.
        smaller: Option<Room>,
        /// How the denoiser's activations are stored.
        dtype: DType,
    },
    /// Values that are infinite or not a number.
    #[error("{stage}: {count} of {total} values are not finite")]
    NotFinite {
        /// Where they were first seen.
        stage: String,
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
    },
}

/// Kinds of failure that a caller may want to tell apart; the command line gives each an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request.
    Usage,
    /// A file is not what its format or its model asks for.
    Malformed,
    /// A file is sound but asks for something that is not implemented.
    Unsupported,
    /// Memory of the device, or what it takes in one binding.
    OutOfMemory,
    /// The device is absent or lost.
    Gpu,
    /// Numbers.
    NotFinite,
    /// Writing a result.
    Output,
    /// A bug.
    Internal,
}

impl Error {
    /// A [`Error::Usage`] from its three fields.
    pub fn usage(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Error::Usage { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Usage { .. } => ErrorKind::Usage,
            Error::Load(error) => load_kind(error),
            Error::Graph(_) => ErrorKind::Malformed,
            // A smaller picture would fit.
            Error::Plan(PlanError {
                source: OpError::TooLarge { .. } | OpError::TooMany { .. } | OpError::TooLong { .. },
                ..
            }) => ErrorKind::OutOfMemory,
            Error::Plan(_) => ErrorKind::Unsupported,
            Error::Sampler(error) => sampler_kind(error),
            Error::Device(error) => match error {
                DeviceError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
                DeviceError::Refused { .. } => ErrorKind::Internal,
                DeviceError::NoAdapter { .. }
                | DeviceError::NotOpened { .. }
                | DeviceError::Lost { .. }
                | DeviceError::Hung { .. } => ErrorKind::Gpu,
            },
            Error::NoRoom { .. } => ErrorKind::OutOfMemory,
            Error::NotFinite { .. } => ErrorKind::NotFinite,
        }
    }
}

impl From<ValidateError> for Error {
    fn from(error: ValidateError) -> Self {
        match error {
            ValidateError::Graph(error) => error.into(),
            ValidateError::Plan(error) => error.into(),
            ValidateError::Device(error) => error.into(),
        }
    }
}

fn load_kind(error: &loaders::Error) -> ErrorKind {
    match error {
        loaders::Error::Malformed { .. } => ErrorKind::Malformed,
        loaders::Error::Unsupported { .. } => ErrorKind::Unsupported,
        loaders::Error::Output { .. } => ErrorKind::Output,
        _ => ErrorKind::Usage,
    }
}

fn sampler_kind(error: &SamplerError) -> ErrorKind {
    match error {
        SamplerError::Usage { .. } => ErrorKind::Usage,
        SamplerError::Malformed { .. } => ErrorKind::Malformed,
        SamplerError::Unsupported { .. } | SamplerError::Singular { .. } => ErrorKind::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_smaller_picture_would_fit_is_out_of_memory() {
        let plan = |source| Error::Plan(PlanError { node: "unet".to_owned(), source }).kind();
        let too_large = OpError::TooLarge { op: "attention", operand: "q", bytes: 2, limit: 1 };
        assert_eq!(plan(too_large), ErrorKind::OutOfMemory);
        let other = OpError::NotDivisible { op: "attention", what: "heads", value: 3, divisor: 2 };
        assert_eq!(plan(other), ErrorKind::Unsupported);
    }
}
