//! What goes wrong on a device.

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// It has too little memory.
    #[error("the device has no {wanted} bytes left: {free} of {all} are free")]
    OutOfMemory {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that it has.
        all: u64,
    },
    /// It cannot be used, or stopped working.
    #[error("{doing}: {found}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What was answered.
        found: String,
    },
}

impl DeviceError {
    /// Something did not work.
    pub fn failed(doing: impl Into<String>, found: impl ToString) -> Self {
        Self::Failed {
            doing: doing.into(),
            found: found.to_string(),
        }
    }
}
