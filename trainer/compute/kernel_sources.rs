//! The CUDA sources of this crate, for its build script and for the emulator's.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Headers that kernels share, below the crate's folder.
pub(crate) const HEADERS: &str = "src/kernels";

/// Every `.cu` file in a folder and below it, in order.
///
/// # Errors
/// If a folder cannot be read.
pub(crate) fn find_kernels(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(find_kernels(&path)?);
        } else if path.extension().is_some_and(|end| end == "cu") {
            found.push(path);
        }
    }

    found.sort();
    Ok(found)
}

/// The name of a source: its operation's folder for a `kernel.cu`, its own for any other.
pub(crate) fn kernel_name(source: &Path) -> String {
    let stem = source.file_stem().unwrap_or_default();
    let folder = source.parent().and_then(Path::file_name);

    match folder {
        Some(folder) if stem == "kernel" => folder,
        _ => stem,
    }
    .to_string_lossy()
    .into_owned()
}
