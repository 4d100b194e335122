//! Errors of the trainer with remedies in their messages, and the exit code of each. Never decides about
//! another attempt: that is the operator's part, from the exit code alone.

use cnclip_crds::exit_code::TrainerExit;

use cnclip_compute::device::DeviceError;
use cnclip_data::error::StoreError;
use cnclip_data::error::file_exit;
use cnclip_distributed::{Origin, RankError};
use cnclip_nn::memory::DoesNotFit;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something failed. A message says what was tried, on what, what was found, what was expected and what
/// to do.
///
/// # Examples
/// ```
/// use cnclip::error::Error;
///
/// let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
/// let error = Error::io_context("write", "/data/weights.pt")(full);
/// assert!(error.to_string().starts_with("cannot write /data/weights.pt"));
/// assert_eq!(error.exit_code().exit_code(), 75, "another attempt may find space");
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration can never work as it stands.
    #[error("{0}")]
    Config(String),
    /// The data is unusable.
    #[error("{0}")]
    Data(String),
    /// An object store or a file system did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of this machine could not be read or written.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// What was tried: `open`, `read`, `write`.
        verb: &'static str,
        /// On which file.
        path: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Another attempt or another run owns the artifact prefix.
    #[error("{0}")]
    Fenced(String),
    /// Stopped on request, with the state saved.
    #[error("stopped after step {step} with its checkpoint saved; run the same command again")]
    Interrupted {
        /// The last completed step.
        step: u64,
    },
    /// Stopped on request, with nothing to save.
    #[error("{0}")]
    Stopped(String),
    /// A rank made no progress.
    #[error("{0}")]
    Hang(String),
    /// Another worker of the run was lost, or ended.
    #[error("{0}")]
    WorkerLost(String),
    /// A device has too little memory, or stopped working.
    #[error("{0}{advice}", advice = remediation_hint(.0))]
    Device(#[from] DeviceError),
    /// A tensor operation refused its operands.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// We are wrong.
    #[error("{0}; this is a fault of cnclip, please report it")]
    Bug(String),
}

impl Error {
    /// The exit code this error ends the process with.
    pub fn exit_code(&self) -> TrainerExit {
        match self {
            Self::Usage(_) => TrainerExit::Usage,
            // A lost fence is final: the same attempt would be refused again.
            Self::Config(_) | Self::Fenced(_) => TrainerExit::Config,
            // Another try finds the same memory, but may find a device that works.
            Self::Device(DeviceError::OutOfMemory { .. }) => TrainerExit::Config,
            Self::Device(DeviceError::Failed { .. }) => TrainerExit::Retry,
            Self::Data(_) => TrainerExit::Data,
            Self::Store(fault) => fault.exit(),
            Self::File { source, .. } => file_exit(source),
            // The state is saved, or the cause is another worker's, whose exit code decides.
            Self::Interrupted { .. } | Self::Stopped(_) | Self::WorkerLost(_) => TrainerExit::Retry,
            Self::Hang(_) => TrainerExit::Hang,
            Self::Tensor(_) | Self::Bug(_) => TrainerExit::Bug,
        }
    }

    /// Whether the reader of what was written has gone: its own choice, and no fault.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// For `map_err`: the error of `verb` on the local file `path`.
    pub fn io_context(
        verb: &'static str,
        path: impl AsRef<std::path::Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::File { verb, path, source }
    }
}

impl From<cnclip_data::error::Error> for Error {
    fn from(error: cnclip_data::error::Error) -> Self {
        use cnclip_data::error::Error as Data;

        match error {
            Data::Config(message) => Self::Config(message),
            Data::Data(message) => Self::Data(message),
            Data::Store(fault) => Self::Store(fault),
            Data::File { verb, path, source } => Self::File { verb, path, source },
            Data::Cancelled(_) => Self::Stopped(error.to_string()),
            Data::Bug(message) => Self::Bug(message),
        }
    }
}

impl From<cnclip_distributed::Error> for Error {
    fn from(error: cnclip_distributed::Error) -> Self {
        use cnclip_distributed::Error as Distributed;

        match error {
            Distributed::Config(message) => Self::Config(message),
            Distributed::WorkerLost(message) => Self::WorkerLost(message),
            Distributed::Device(fault) => Self::Device(fault),
            Distributed::Bug(message) => Self::Bug(message),
        }
    }
}

impl From<DoesNotFit> for Error {
    fn from(DoesNotFit(message): DoesNotFit) -> Self {
        Self::Config(message)
    }
}

impl RankError for Error {
    fn origin(&self) -> Origin {
        match self {
            Self::WorkerLost(_) => Origin::PeerFailure,
            Self::Interrupted { .. } => Origin::Interrupted,
            Self::Device(_) => Origin::Device,
            _ => Origin::Local,
        }
    }
}

/// What to do about a device's fault, where that is known.
fn remediation_hint(fault: &DeviceError) -> &'static str {
    match fault {
        DeviceError::OutOfMemory { .. } => {
            ". Lower microBatchSize or set it to Auto, set gradientCheckpointing, or use a GPU with more memory."
        }
        DeviceError::Failed { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_ends_the_process_with_the_code_of_its_class() {
        let absent = std::io::Error::from(std::io::ErrorKind::NotFound);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let table = [
            (Error::Usage("x".into()), 64),
            (Error::Data("x".into()), 65),
            (Error::Bug("x".into()), 70),
            (DeviceError::failed("x", "y").into(), 75),
            (
                DeviceError::OutOfMemory {
                    wanted: 3,
                    free: 1,
                    all: 2,
                }
                .into(),
                78,
            ),
            (Error::Tensor(candle_core::Error::Msg("x".into())), 70),
            (Error::Interrupted { step: 7 }, 75),
            (Error::Stopped("x".into()), 75),
            (Error::Hang("x".into()), 71),
            (Error::WorkerLost("x".into()), 75),
            (Error::io_context("write", "/x")(full), 75),
            (Error::io_context("open", "/x")(absent), 78),
            (Error::Config("x".into()), 78),
            (Error::Fenced("x".into()), 78),
        ];

        for (error, code) in table {
            assert_eq!(error.exit_code().exit_code(), code, "{error}");
        }
    }
}
