//! A Parquet table with the columns `id` and `feature`, a list of fp32.

use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::error::{Error, Result};
use cnclip_data::shard::ItemId;

/// Values buffered before they are written as a row group: 16 MiB.
const ROW_GROUP_VALUES: usize = 1 << 22;

/// Writes a table.
pub(super) struct ParquetTable<W: Write + Send> {
    output: Option<W>,
    writer: Option<SerializedFileWriter<W>>,
    ids: IdColumn,
    values: Vec<f32>,
    width: usize,
}

/// Integers while every id is one, else strings: decided by the first row group, since the schema cannot change
/// after it.
enum IdColumn {
    Numbers(Vec<i64>),
    Names(Vec<ByteArray>),
}

impl<W: Write + Send> ParquetTable<W> {
    pub(super) fn new(to: W, width: usize) -> Self {
        Self {
            output: Some(to),
            writer: None,
            ids: IdColumn::Numbers(Vec::new()),
            values: Vec::new(),
            width,
        }
    }

    pub(super) fn push_row(&mut self, id: &ItemId, feature: &[f32]) -> Result<()> {
        let number = match id {
            // INT64 is signed: an id beyond its range makes the column one of strings.
            ItemId::Number(number) => i64::try_from(*number).ok(),
            ItemId::Name(_) => None,
        };

        match (&mut self.ids, number) {
            (IdColumn::Numbers(ids), Some(number)) => ids.push(number),
            (IdColumn::Names(ids), _) => ids.push(id.to_string().as_str().into()),
            (IdColumn::Numbers(ids), None) if self.writer.is_none() => {
                let mut names: Vec<ByteArray> = ids
                    .iter()
                    .map(|id| id.to_string().as_str().into())
                    .collect();

                names.push(id.to_string().as_str().into());
                self.ids = IdColumn::Names(names);
            }
            (IdColumn::Numbers(_), None) => {
                return Err(Error::Data(format!(
                    "The id column holds integers so far, and {id} is not one. Write the features \
                     as Jsonl or Npy."
                )));
            }
        }

        self.values.extend_from_slice(feature);
        match self.values.len() >= ROW_GROUP_VALUES {
            true => self.flush_row_group().map_err(parquet_error),
            false => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.flush_row_group().map_err(parquet_error)?;
        self.writer
            .map_or(Ok(()), |open| open.close().map(|_| ()))
            .map_err(parquet_error)
    }

    /// Writes the buffered rows as a row group.
    fn flush_row_group(&mut self) -> std::result::Result<(), ParquetError> {
        // Opened with the first row group, when the type of the ids is known.
        if let Some(to) = self.output.take() {
            self.writer = Some(open_writer(to, &self.ids)?);
        }

        let Some(open) = &mut self.writer else {
            return Ok(());
        };

        let mut group = open.next_row_group()?;
        self.ids.write_column(&mut group)?;
        write_feature_column(&mut group, &self.values, self.width)?;
        group.close()?;
        self.values.clear();

        Ok(())
    }
}

impl IdColumn {
    fn write_column<W: Write + Send>(
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

fn open_writer<W: Write + Send>(
    to: W,
    ids: &IdColumn,
) -> std::result::Result<SerializedFileWriter<W>, ParquetError> {
    let id = match ids {
        IdColumn::Numbers(_) => "required int64 id;",
        IdColumn::Names(_) => "required binary id (string);",
    };

    // The three-level list of the Parquet specification, which pandas and Spark read as an array.
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
fn write_feature_column<W: Write + Send>(
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

    // 1 is the highest definition level here: only the repeated group can be absent.
    let defined = vec![1; values.len()];
    column
        .typed::<FloatType>()
        .write_batch(values, Some(&defined), Some(&repeated))?;

    column.close()
}

fn parquet_error(error: ParquetError) -> Error {
    Error::Bug(format!("features cannot be written as Parquet: {error}"))
}
