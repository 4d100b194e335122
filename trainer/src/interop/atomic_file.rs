//! Files that appear whole or not at all. Decides nothing about what is in them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View, serialize_to_file};

use crate::error::{Error, Result};

/// As new files are, before the process's mask.
const FILE_MODE: u32 = 0o666;

/// A tensor of numbers on its way out.
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
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes a file beside its place, and moves it there.
///
/// # Errors
/// Those of `write`, and if the file cannot be made, or not be moved; then nothing is left behind.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    let aside = create_temp_file(path)?;
    let mut writer = BufWriter::with_capacity(1 << 20, aside.as_file());
    write(&mut writer)?;
    writer.flush().map_err(Error::io_context("write", path))?;
    drop(writer);
    aside
        .persist(path)
        .map_err(|error| Error::io_context("write", path)(error.error))?;

    Ok(())
}

/// Writes named tensors as safetensors, one after the other: a tensor may make its bytes when asked.
///
/// # Errors
/// As [`file`].
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

    // The format is what Hugging Face's readers ask for.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(format), aside.path()).map_err(|error| match error {
        SafeTensorError::IoError(error) => Error::io_context("write", path)(error),
        other => Error::Bug(format!("{} cannot be written: {other}", path.display())),
    })?;

    // It put a file of its own there, which nobody else may read.
    std::fs::set_permissions(aside.path(), mode).map_err(Error::io_context("write", path))?;
    aside
        .persist(path)
        .map_err(|error| Error::io_context("write", path)(error.error))?;

    Ok(())
}

fn create_temp_file(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };

    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(FILE_MODE));
    builder
        .tempfile_in(folder)
        .map_err(Error::io_context("create a file in", folder))
}

/// A JSON value and a newline.
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
