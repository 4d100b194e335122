//! What keeps ranks from working together, and how the error of a rank's own work is treated.

use std::fmt::Display;

use cnclip_compute::device::DeviceError;

/// The result of what a communicator does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why ranks cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workers were configured differently, or in a way that can never work.
    #[error("{0}")]
    Config(String),
    /// Another worker of the run was lost, or ended.
    #[error("{0}")]
    Lost(String),
    /// A device has too little memory, or stopped working.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// We are wrong.
    #[error("{0}; this is a fault of cnclip, please report it")]
    Bug(String),
}

/// Where the error of a rank's work comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another rank ended first: this one only heard of it.
    Lost,
    /// The rank stopped on request; so do the others, by themselves.
    Interrupted,
    /// Its device: broken, or given up because another rank was lost.
    Device,
    /// The rank itself.
    Own,
}

/// An error that a rank's work may end with.
pub trait RankError: Display + From<Error> + Send {
    /// Where it comes from: decides whether the other ranks hear of it.
    fn origin(&self) -> Origin;
}

impl RankError for Error {
    fn origin(&self) -> Origin {
        match self {
            Self::Lost(_) => Origin::Lost,
            Self::Device(_) => Origin::Device,
            Self::Config(_) | Self::Bug(_) => Origin::Own,
        }
    }
}
