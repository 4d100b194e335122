//! Feature files with ids: the reference's JSON Lines, a NumPy array, or a Parquet table.

mod npy;
mod parquet_table;

use std::io::Write;
use std::path::Path;

use cnclip_crds::trainer_config::FeatureFormat;
use serde::Serialize;

use super::atomic_file;
use crate::error::{Error, Result};
use cnclip_data::shard::ItemId;
use parquet_table::ParquetTable;

/// Whether features are of images or of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// Images.
    Images,
    /// Texts.
    Texts,
}

// Untagged: in the reference's files only the key of the id distinguishes images from texts.
#[derive(Serialize)]
#[serde(untagged)]
enum FeatureLine<'a> {
    Image {
        image_id: &'a ItemId,
        feature: &'a [f32],
    },
    Text {
        text_id: &'a ItemId,
        feature: &'a [f32],
    },
}

/// File name extension of a format.
pub fn file_extension(format: FeatureFormat) -> &'static str {
    match format {
        FeatureFormat::Jsonl => "jsonl",
        FeatureFormat::Npy => "npy",
        FeatureFormat::Parquet => "parquet",
    }
}

/// The format of a file name's extension; JSON Lines for other extensions.
///
/// # Examples
/// ```
/// use std::path::Path;
///
/// use cnclip::interop::features::format_from_path;
/// use cnclip_crds::trainer_config::FeatureFormat;
///
/// assert_eq!(format_from_path(Path::new("images.npy")), FeatureFormat::Npy);
/// assert_eq!(format_from_path(Path::new("images.txt")), FeatureFormat::Jsonl);
/// ```
pub fn format_from_path(path: &Path) -> FeatureFormat {
    let asked = |&format: &FeatureFormat| {
        path.extension()
            .is_some_and(|end| end == file_extension(format))
    };
    [FeatureFormat::Npy, FeatureFormat::Parquet]
        .into_iter()
        .find(asked)
        .unwrap_or(FeatureFormat::Jsonl)
}

/// Writes a feature file.
pub struct FeatureWriter<W: Write + Send> {
    kind: FeatureKind,
    width: usize,
    sink: FeatureSink<W>,
}

enum FeatureSink<W: Write + Send> {
    Jsonl(W),
    /// An array and the ids of its rows.
    Npy(W, Vec<ItemId>),
    Parquet(Box<ParquetTable<W>>),
}

impl<W: Write + Send> FeatureWriter<W> {
    /// Starts a file of `count` features of `width` values.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn new(
        format: FeatureFormat,
        of: FeatureKind,
        count: usize,
        width: usize,
        mut to: W,
    ) -> Result<Self> {
        let sink = match format {
            FeatureFormat::Jsonl => FeatureSink::Jsonl(to),
            // The header has the shape, so the count must be known before the first row.
            FeatureFormat::Npy => {
                to.write_all(&npy::npy_header(count, width))
                    .map_err(write_error)?;
                FeatureSink::Npy(to, Vec::with_capacity(count))
            }
            FeatureFormat::Parquet => FeatureSink::Parquet(Box::new(ParquetTable::new(to, width))),
        };

        Ok(Self {
            kind: of,
            width,
            sink,
        })
    }

    /// Appends features with their ids.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_features<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a ItemId>,
        features: &[f32],
    ) -> Result<()> {
        let mut rows = ids.into_iter().zip(features.chunks(self.width));
        match &mut self.sink {
            FeatureSink::Jsonl(to) => rows.try_for_each(|(id, feature)| {
                let row = self.kind.feature_line(id, feature);
                atomic_file::write_json_line(to, &row).map_err(write_error)
            }),
            FeatureSink::Npy(to, ids) => {
                ids.extend(rows.map(|(id, _)| id.clone()));
                to.write_all(npy::as_npy_bytes(features))
                    .map_err(write_error)
            }
            FeatureSink::Parquet(table) => rows.try_for_each(|(id, row)| table.push_row(id, row)),
        }
    }

    /// Completes the file. Returns the content of its companion file, if the format has one: the ids of an array,
    /// one per line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<Option<Vec<u8>>> {
        match self.sink {
            FeatureSink::Jsonl(_) => Ok(None),
            FeatureSink::Npy(_, ids) => {
                let mut lines = Vec::new();
                ids.iter()
                    .try_for_each(|id| atomic_file::write_json_line(&mut lines, id))
                    .map_err(write_error)?;

                Ok(Some(lines))
            }
            FeatureSink::Parquet(table) => table.finish().map(|()| None),
        }
    }
}

impl FeatureKind {
    fn feature_line<'a>(self, id: &'a ItemId, feature: &'a [f32]) -> FeatureLine<'a> {
        match self {
            Self::Images => FeatureLine::Image {
                image_id: id,
                feature,
            },
            Self::Texts => FeatureLine::Text {
                text_id: id,
                feature,
            },
        }
    }
}

fn write_error(error: std::io::Error) -> Error {
    Error::io_context("write", "features")(error)
}

#[cfg(test)]
mod tests;
