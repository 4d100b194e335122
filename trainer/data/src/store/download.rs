//! Copies an object into a local file, piece by piece: of whatever size, it takes the memory of a few parts.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::{PART_BYTES, Store};
use crate::error::{Error, Result};

/// Bytes that are requested before they are written: two parts, which arrive together.
const CHUNK_BYTES: u64 = 2 * PART_BYTES;

impl Store {
    /// Copies an object into a file, over one that is there; folders are made.
    ///
    /// # Errors
    /// As [`Store::get_range`], and if the file cannot be written.
    pub fn download_to(&self, name: &str, file: &Path) -> Result<()> {
        // Before a file is made: an object that is not there leaves none behind.
        let size = self.existing_size(name)?;

        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }

        let mut to = File::create(file).map_err(Error::file("create", file))?;
        for start in (0..size).step_by(CHUNK_BYTES as usize) {
            let piece = self.get_range(name, start..size.min(start + CHUNK_BYTES))?;
            to.write_all(&piece).map_err(Error::file("write", file))?;
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_the_object_is_whatever_its_size() {
        let store = Store::in_memory();
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 1009) as u8).collect();
            store.put("x", bytes.clone().into()).unwrap();
            let file = folder.path().join("a/b");
            store.download_to("x", &file).unwrap();
            assert!(fs::read(&file).unwrap() == bytes, "{size} bytes");
        }

        let error = store
            .download_to("y", &folder.path().join("y"))
            .unwrap_err();
        assert!(error.to_string().contains("memory:/y"), "{error}");
        assert!(
            !folder.path().join("y").exists(),
            "a file without an object"
        );
    }
}
