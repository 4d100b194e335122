//! What a file must hold, as it was written down when the file was written.

use crate::error::{Error, Result};

/// The size and the digest of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedContent {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

impl ExpectedContent {
    /// # Errors
    /// If the file at `uri` has another size.
    pub fn expect_size(&self, uri: &str, found: u64) -> Result<()> {
        let right = self.bytes;
        match found == right {
            true => Ok(()),
            false => Err(Error::Data(format!(
                "{uri} has {found} bytes instead of {right}"
            ))),
        }
    }

    /// # Errors
    /// If the file at `uri` has another digest.
    pub fn expect_digest(&self, uri: &str, found: &str) -> Result<()> {
        let right = &self.sha256;
        match found == right {
            true => Ok(()),
            false => Err(Error::Data(format!(
                "{uri} was changed after it was written: its SHA-256 is not {right}"
            ))),
        }
    }
}
