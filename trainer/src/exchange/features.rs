//! Files of features with the ids of what they are of: the reference's JSON lines, a NumPy array, or a
//! Parquet table. Decides formats; computes nothing.

mod npy;
mod table;

use std::io::Write;
use std::path::Path;

use cnclip_crds::run_config::FeatureFormat;
use serde::Serialize;

use super::output;
use crate::error::{Error, Result};
use cnclip_data::shard::Id;
use table::Table;

/// What features are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Images.
    Images,
    /// Texts.
    Texts,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Image {
        image_id: &'a Id,
        feature: &'a [f32],
    },
    Text {
        text_id: &'a Id,
        feature: &'a [f32],
    },
}

/// How the names of files of a format end.
pub fn ending(format: FeatureFormat) -> &'static str {
    match format {
        FeatureFormat::Jsonl => "jsonl",
        FeatureFormat::Npy => "npy",
        FeatureFormat::Parquet => "parquet",
    }
}

/// The format that the end of a file's name asks for; JSON lines where it asks for none.
pub fn format_of(path: &Path) -> FeatureFormat {
    let asked = |&format: &FeatureFormat| path.extension().is_some_and(|end| end == ending(format));
    [FeatureFormat::Npy, FeatureFormat::Parquet]
        .into_iter()
        .find(asked)
        .unwrap_or(FeatureFormat::Jsonl)
}

/// A file of features on its way out.
pub struct Writer<W: Write + Send> {
    of: Of,
    width: usize,
    kept: Kept<W>,
}

enum Kept<W: Write + Send> {
    Lines(W),
    /// An array and what its rows are called.
    Array(W, Vec<Id>),
    Table(Box<Table<W>>),
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file of so many features of `width` numbers.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn new(
        format: FeatureFormat,
        of: Of,
        (count, width): (usize, usize),
        mut to: W,
    ) -> Result<Self> {
        let kept = match format {
            FeatureFormat::Jsonl => Kept::Lines(to),
            FeatureFormat::Npy => {
                to.write_all(&npy::head(count, width)).map_err(unwritten)?;
                Kept::Array(to, Vec::with_capacity(count))
            }
            FeatureFormat::Parquet => Kept::Table(Box::new(Table::new(to, width))),
        };

        Ok(Self { of, width, kept })
    }

    /// Adds features, and what they are of.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn add<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a Id>,
        features: &[f32],
    ) -> Result<()> {
        let mut rows = ids.into_iter().zip(features.chunks(self.width));
        match &mut self.kept {
            Kept::Lines(to) => rows
                .map(|row| self.of.row(row))
                .try_for_each(|row| output::line(to, &row).map_err(unwritten)),
            Kept::Array(to, ids) => {
                ids.extend(rows.map(|(id, _)| id.clone()));
                to.write_all(npy::bytes(features)).map_err(unwritten)
            }
            Kept::Table(table) => rows.try_for_each(|(id, row)| table.add(id, row)),
        }
    }

    /// Ends the file; gives what is written beside it, if anything: the ids of an array, one a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<Option<Vec<u8>>> {
        match self.kept {
            Kept::Lines(_) => Ok(None),
            Kept::Array(_, ids) => {
                let mut lines = Vec::new();
                ids.iter()
                    .try_for_each(|id| output::line(&mut lines, id))
                    .map_err(unwritten)?;

                Ok(Some(lines))
            }
            Kept::Table(table) => table.finish().map(|()| None),
        }
    }
}

impl Of {
    fn row<'a>(self, (id, feature): (&'a Id, &'a [f32])) -> Row<'a> {
        match self {
            Self::Images => Row::Image {
                image_id: id,
                feature,
            },
            Self::Texts => Row::Text {
                text_id: id,
                feature,
            },
        }
    }
}

fn unwritten(error: std::io::Error) -> Error {
    Error::file("write", "features")(error)
}

#[cfg(test)]
mod tests;
