//! What keeps ranks from working together, and where the error of a rank's own work comes from.

use std::fmt::Display;

use cnclip_compute::device::DeviceError;

/// The result of a communicator's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why ranks cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workers were configured differently, or in a way that can never work.
    #[error("{0}")]
    Config(String),
    /// Another worker of the run failed, or ended: a new attempt may succeed.
    #[error("{0}")]
    WorkerLost(String),
    /// A device has too little memory, or stopped working.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An internal error.
    #[error("{0}; this is a fault of cnclip, please report it")]
    Bug(String),
}

/// Where the error of a rank's work comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another rank failed first; this one ends because of it.
    PeerFailure,
    /// The rank stopped on request. The other ranks get the same request, so they need not be informed.
    Interrupted,
    /// Its device: broken, or aborted because another rank failed.
    Device,
    /// The rank's own work.
    Local,
}

/// An error that a rank's work may end with.
pub trait RankError: Display + From<Error> + Send {
    /// Where it comes from: decides whether the failure is reported to the other ranks.
    fn origin(&self) -> Origin;
}

impl RankError for Error {
    fn origin(&self) -> Origin {
        match self {
            Self::WorkerLost(_) => Origin::PeerFailure,
            Self::Device(_) => Origin::Device,
            Self::Config(_) | Self::Bug(_) => Origin::Local,
        }
    }
}
