//! What can be wrong with a sampler's configuration or with what is asked of it.

/// Why a trajectory could not be planned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// The request makes no sense, whatever the model.
    #[error("{what}: expected {expected}, found {found}")]
    Usage {
        /// The option at fault, such as `steps`.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// The scheduler's configuration is broken: a wrong type or an impossible number.
    #[error("{file}: {key}: expected {expected}, found {found}")]
    Malformed {
        /// The configuration file.
        file: String,
        /// The key at fault.
        key: String,
        /// What would have been accepted.
        expected: String,
        /// The value as JSON.
        found: String,
    },
    /// The configuration is meaningful, but asks for something that is not implemented.
    #[error("{file}: {key} = {found} is not supported, only {supported}")]
    Unsupported {
        /// The configuration file.
        file: String,
        /// The key at fault.
        key: String,
        /// The values that are implemented.
        supported: String,
        /// The value as JSON.
        found: String,
    },
    /// The method divides by zero at this step, as it does with epsilon prediction at zero
    /// signal or where two noise levels coincide.
    #[error("{file}: step {step} of {method} has no finite coefficients with this configuration")]
    Singular {
        /// The configuration file.
        file: String,
        /// [`Method::name`](super::Method::name).
        method: &'static str,
        /// Index of the step, from 0.
        step: usize,
    },
}
