//! Files of features with the ids of what they are of: the reference's JSON lines, a NumPy array, or a
//! Parquet table. Decides formats; computes nothing.

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

/// What features are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// Images.
    Images,
    /// Texts.
    Texts,
}

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

/// How the names of files of a format end.
pub fn file_extension(format: FeatureFormat) -> &'static str {
    match format {
        FeatureFormat::Jsonl => "jsonl",
        FeatureFormat::Npy => "npy",
        FeatureFormat::Parquet => "parquet",
    }
}

/// The format that the end of a file's name asks for; JSON lines where it asks for none.
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

/// A file of features on its way out.
pub struct FeatureWriter<W: Write + Send> {
    kind: FeatureKind,
    width: usize,
    sink: FeatureSink<W>,
}

enum FeatureSink<W: Write + Send> {
    Jsonl(W),
    /// An array and what its rows are called.
    Npy(W, Vec<ItemId>),
    Parquet(Box<ParquetTable<W>>),
}

impl<W: Write + Send> FeatureWriter<W> {
    /// Begins a file of so many features of `width` numbers.
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

    /// Adds features, and what they are of.
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
            FeatureSink::Jsonl(to) => rows
                .map(|(id, feature)| self.kind.feature_line(id, feature))
                .try_for_each(|row| atomic_file::write_json_line(to, &row).map_err(write_error)),
            FeatureSink::Npy(to, ids) => {
                ids.extend(rows.map(|(id, _)| id.clone()));
                to.write_all(npy::as_npy_bytes(features))
                    .map_err(write_error)
            }
            FeatureSink::Parquet(table) => rows.try_for_each(|(id, row)| table.push_row(id, row)),
        }
    }

    /// Ends the file; gives what is written beside it, if anything: the ids of an array, one a line.
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
