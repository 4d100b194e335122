//! Errors of devices.

/// Why a call of a device failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// Its memory is too small.
    #[error("the device has no {wanted} bytes left: {free} of {all} are free")]
    OutOfMemory {
        /// Bytes that were to be allocated.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that it has.
        all: u64,
    },
    /// It cannot be used, or failed.
    #[error("{doing}: {found}")]
    Failed {
        /// What was attempted.
        doing: String,
        /// The driver's answer.
        found: String,
    },
}

impl DeviceError {
    /// A failed call.
    pub fn failed(doing: impl Into<String>, found: impl ToString) -> Self {
        Self::Failed {
            doing: doing.into(),
            found: found.to_string(),
        }
    }
}
