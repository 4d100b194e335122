//! What can be wrong with data, and with the places it is read from and written to.

mod store_error;

use std::io::{self, ErrorKind};
use std::path::Path;

use cnclip_crds::exit_code::TrainerExit;
pub use store_error::{StoreError, StoreErrorKind, StoreVerb};

/// The result of what reads or writes data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why data could not be read or written. A message says what was tried, on what, what was found, what was
/// expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can never work as it stands.
    #[error("{0}")]
    Config(String),
    /// The data is unusable.
    #[error("{0}")]
    Data(String),
    /// A request to an object store or a file system failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of this machine could not be read or written.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// What was tried: `open`, `read`, `write`.
        verb: &'static str,
        /// On which file.
        path: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A request that was cancelled.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// A fault of this program.
    #[error("{0}; this is a fault of cnclip, please report it")]
    Bug(String),
}

impl Error {
    /// The exit code that this error ends the process with.
    pub fn exit(&self) -> TrainerExit {
        match self {
            Self::Config(_) => TrainerExit::Config,
            Self::Data(_) => TrainerExit::Data,
            Self::Store(fault) => fault.exit(),
            Self::File { source, .. } => file_exit(source),
            Self::Cancelled(_) => TrainerExit::Retry,
            Self::Bug(_) => TrainerExit::Bug,
        }
    }

    /// For `map_err`: the error of `verb` on the local file `path`.
    pub fn file(verb: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::File { verb, path, source }
    }
}

/// The exit code of an error on a local file: another node may have the space and a disk that works, but none has a
/// file that is not there, or another right to it.
pub fn file_exit(source: &io::Error) -> TrainerExit {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => TrainerExit::Retry,
        _ if store_error::is_transient_io(source) => TrainerExit::Retry,
        _ => TrainerExit::Config,
    }
}
