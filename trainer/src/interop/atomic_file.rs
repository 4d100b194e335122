//! Atomic file writes: a file appears with its full content or not at all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View, serialize_to_file};

use crate::error::{Error, Result};

/// Mode of a new file before the umask is applied; `tempfile` would create it as 0600.
const FILE_MODE: u32 = 0o666;

/// An fp32 tensor to be written.
#[derive(Clone, Debug)]
pub struct F32Tensor<'a> {
    /// Its shape; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Its values, in rows.
    pub values: Cow<'a, [f32]>,
}

impl View for F32Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values
            .iter()
            // safetensors is little-endian by specification.
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes a temporary file in the same folder and renames it to `path`.
///
/// # Errors
/// Those of `write`, and if the file cannot be created or renamed; the temporary file is removed then.
///
/// # Examples
/// ```
/// use std::io::Write;
///
/// use cnclip::error::Error;
/// use cnclip::interop::atomic_file::write_atomically;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scores.json");
/// write_atomically(&path, |file| {
///     file.write_all(b"{}").map_err(Error::io_context("write", &path))
/// })?;
///
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    let aside = create_temp_file(path)?;
    let mut writer = BufWriter::with_capacity(1 << 20, aside.as_file());
    write(&mut writer)?;
    // Explicitly, because dropping a `BufWriter` ignores write errors.
    writer.flush().map_err(Error::io_context("write", path))?;
    drop(writer);
    // A rename is atomic only within a file system, which is why the file is in the folder of its target.
    aside
        .persist(path)
        .map_err(|error| Error::io_context("write", path)(error.error))?;

    Ok(())
}

/// Writes named tensors as safetensors atomically. A tensor may produce its bytes when they are written.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_safetensors<V: View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, V)>,
) -> Result<()> {
    let aside = create_temp_file(path)?;
    let mode = aside
        .as_file()
        .metadata()
        .map_err(Error::io_context("write", path))?
        .permissions();

    // `transformers` refuses files without this entry.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(format), aside.path()).map_err(|error| match error {
        SafeTensorError::IoError(error) => Error::io_context("write", path)(error),
        other => Error::Bug(format!("{} cannot be written: {other}", path.display())),
    })?;

    // The serializer replaced the temporary file by one with mode 0600.
    std::fs::set_permissions(aside.path(), mode).map_err(Error::io_context("write", path))?;
    aside
        .persist(path)
        .map_err(|error| Error::io_context("write", path)(error.error))?;

    Ok(())
}

fn create_temp_file(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = match path.parent() {
        // The parent of a bare file name is the empty path, which is not a folder.
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };

    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(FILE_MODE));
    builder
        .tempfile_in(folder)
        .map_err(Error::io_context("create a file in", folder))
}

/// Writes a JSON value and a newline.
///
/// # Errors
/// Those of the writer.
pub fn write_json_line(writer: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_atomically(&path, |writer| {
            writer
                .write_all(b"old")
                .map_err(Error::io_context("write", "f"))
        })
        .unwrap();

        let error = write_atomically(&path, |writer| {
            writer
                .write_all(b"new")
                .map_err(Error::io_context("write", "f"))?;
            Err(Error::Data("no more".into()))
        });

        assert_eq!(error.unwrap_err().to_string(), "no more");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn others_may_read_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, tensor] = ["f", "t.safetensors"].map(|name| folder.path().join(name));
        write_atomically(&plain, |_| Ok(())).unwrap();
        write_safetensors(&tensor, [("a".to_owned(), View8(&[7]))]).unwrap();
        let [plain, tensor] =
            [plain, tensor].map(|path| path.metadata().unwrap().permissions().mode());

        assert_eq!(plain, tensor);
        assert_eq!(plain & 0o400, 0o400);
    }

    struct View8<'a>(&'a [u8]);

    impl View for View8<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::U8
        }
        fn shape(&self) -> &[usize] {
            &[1]
        }
        fn data(&self) -> Cow<'_, [u8]> {
            self.0.into()
        }
        fn data_len(&self) -> usize {
            1
        }
    }
}
