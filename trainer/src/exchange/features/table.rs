//! A Parquet table of the columns `id` and `feature`, a list of fp32.

use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::error::{Error, Result};
use cnclip_data::shard::Id;

/// Numbers that are gathered before they are written as a group: 16 MiB.
const GROUP: usize = 1 << 22;

/// A table on its way out.
pub(super) struct Table<W: Write + Send> {
    to: Option<W>,
    open: Option<SerializedFileWriter<W>>,
    ids: Ids,
    values: Vec<f32>,
    width: usize,
}

/// Whole numbers while every id is one, else text.
enum Ids {
    Numbers(Vec<i64>),
    Names(Vec<ByteArray>),
}

impl<W: Write + Send> Table<W> {
    pub(super) fn new(to: W, width: usize) -> Self {
        Self {
            to: Some(to),
            open: None,
            ids: Ids::Numbers(Vec::new()),
            values: Vec::new(),
            width,
        }
    }

    pub(super) fn add(&mut self, id: &Id, feature: &[f32]) -> Result<()> {
        let number = match id {
            Id::Number(number) => i64::try_from(*number).ok(),
            Id::Name(_) => None,
        };

        match (&mut self.ids, number) {
            (Ids::Numbers(ids), Some(number)) => ids.push(number),
            (Ids::Names(ids), _) => ids.push(id.to_string().as_str().into()),
            (Ids::Numbers(ids), None) if self.open.is_none() => {
                let mut names: Vec<ByteArray> = ids
                    .iter()
                    .map(|id| id.to_string().as_str().into())
                    .collect();

                names.push(id.to_string().as_str().into());
                self.ids = Ids::Names(names);
            }
            (Ids::Numbers(_), None) => {
                return Err(Error::Data(format!(
                    "The column of ids began with numbers, and {id} is none. Write the features \
                     as Jsonl or Npy."
                )));
            }
        }

        self.values.extend_from_slice(feature);
        match self.values.len() >= GROUP {
            true => self.group().map_err(unwritten),
            false => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.group().map_err(unwritten)?;
        self.open
            .map_or(Ok(()), |open| open.close().map(|_| ()))
            .map_err(unwritten)
    }

    /// Writes what is gathered.
    fn group(&mut self) -> std::result::Result<(), ParquetError> {
        if let Some(to) = self.to.take() {
            self.open = Some(begin(to, &self.ids)?);
        }

        let Some(open) = &mut self.open else {
            return Ok(());
        };

        let mut group = open.next_row_group()?;
        self.ids.write(&mut group)?;
        features(&mut group, &self.values, self.width)?;
        group.close()?;
        self.values.clear();

        Ok(())
    }
}

impl Ids {
    fn write<W: Write + Send>(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> std::result::Result<(), ParquetError> {
        let Some(mut column) = group.next_column()? else {
            return Ok(());
        };

        match self {
            Self::Numbers(ids) => {
                column.typed::<Int64Type>().write_batch(ids, None, None)?;
                ids.clear();
            }
            Self::Names(ids) => {
                column
                    .typed::<ByteArrayType>()
                    .write_batch(ids, None, None)?;
                ids.clear();
            }
        }

        column.close()
    }
}

fn begin<W: Write + Send>(
    to: W,
    ids: &Ids,
) -> std::result::Result<SerializedFileWriter<W>, ParquetError> {
    let id = match ids {
        Ids::Numbers(_) => "required int64 id;",
        Ids::Names(_) => "required binary id (string);",
    };

    let schema = format!(
        "message features {{ {id} required group feature (list) {{ repeated group list {{ \
         required float element; }} }} }}"
    );

    let schema = Arc::new(parse_message_type(&schema)?);
    // Features repeat nothing: a dictionary of them would only cost time.
    let plain = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .build();

    SerializedFileWriter::new(to, schema, Arc::new(plain))
}

/// A list for each row: a number begins one where its level is 0.
fn features<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[f32],
    width: usize,
) -> std::result::Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Ok(());
    };

    let repeated: Vec<i16> = (0..values.len())
        .map(|at| i16::from(at % width > 0))
        .collect();

    let defined = vec![1; values.len()];
    column
        .typed::<FloatType>()
        .write_batch(values, Some(&defined), Some(&repeated))?;

    column.close()
}

fn unwritten(error: ParquetError) -> Error {
    Error::Bug(format!("features cannot be written as Parquet: {error}"))
}
