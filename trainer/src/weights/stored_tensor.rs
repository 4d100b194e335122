//! A tensor in its file: shape, type, and how its values are read. Never holds values.

use std::ops::Range;
use std::sync::Arc;

use super::Tensor;
use super::dtype_convert::{Dtype, converter_for, dtype_size};
use super::tensor_file::{DataLocation, TensorFile};
use super::tensor_reader::{FileExtent, TensorReader};
use crate::error::{Error, Result};

/// A tensor in a file. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    shape: Vec<usize>,
    /// One behind the other on the first axis.
    blocks: Vec<StridedBlock>,
}

impl StoredTensor {
    pub(super) fn new(block: StridedBlock) -> Self {
        Self {
            shape: block.shape.clone(),
            blocks: vec![block],
        }
    }

    /// Its shape; `[]` for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers it is.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The kind of its numbers: `F32`, `F16`.
    pub fn dtype_name(&self) -> String {
        self.blocks[0].dtype.to_string()
    }

    /// The parts of files that it lies in.
    ///
    /// # Errors
    /// If an entry of an archive is not there, or is compressed.
    pub(super) fn extents(&self) -> Result<Vec<FileExtent>> {
        let extent = |block: &StridedBlock| {
            Ok(FileExtent {
                file: block.file.clone(),
                range: block.byte_range()?,
            })
        };

        self.blocks.iter().map(extent).collect()
    }

    /// Writes its values, in rows. They are not proven.
    ///
    /// # Errors
    /// If its file cannot be read, or is shorter than it says.
    pub fn read_into(&self, values: &mut [f32]) -> Result<()> {
        self.read_with(&mut TensorReader::direct(), values)
    }

    /// As [`StoredTensor::read_into`], by a reader that was planned for it.
    pub(super) fn read_with(&self, reader: &mut TensorReader, values: &mut [f32]) -> Result<()> {
        let mut rest = values;
        for part in &self.blocks {
            let (values, tail) = rest.split_at_mut(part.element_count());
            part.read_with(reader, values)?;
            rest = tail;
        }

        Ok(())
    }

    /// Its values in memory of their own, by a reader that was planned for it.
    pub(super) fn to_tensor(&self, reader: &mut TensorReader) -> Result<Tensor> {
        let mut values = vec![0.0; self.element_count()];
        self.read_with(reader, &mut values)?;
        Ok(Tensor {
            shape: self.shape.clone(),
            values,
        })
    }

    /// Several tensors as one, if they agree in all axes but the first.
    pub(super) fn concat_rows(tensors: &[StoredTensor]) -> Option<Self> {
        let (&first, rest) = tensors.first()?.shape.split_first()?;
        let agree = |tensor: &StoredTensor| tensor.shape.get(1..) == Some(rest);
        // Checked: tensors without numbers may have axes of any length.
        let rows = tensors[1..].iter().try_fold(first, |rows, tensor| {
            agree(tensor).then(|| rows.checked_add(tensor.shape[0]))?
        })?;

        let shape = [&[rows], rest].concat();
        Some(Self {
            shape,
            blocks: tensors
                .iter()
                .flat_map(|tensor| tensor.blocks.clone())
                .collect(),
        })
    }

    /// The same values, rows for columns.
    pub(super) fn transpose(mut self) -> Self {
        // Reversed strides read the same numbers transposed, without a copy. Only right for a
        // single block, which both projections are.
        self.shape.reverse();
        for part in &mut self.blocks {
            part.shape.reverse();
            part.strides.reverse();
        }

        self
    }
}

/// An array of numbers in a file.
#[derive(Clone, Debug)]
pub(super) struct StridedBlock {
    pub(super) file: Arc<TensorFile>,
    /// Where its first number lies.
    pub(super) location: DataLocation,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Numbers from one entry of an axis to the next.
    pub(super) strides: Vec<usize>,
}

impl StridedBlock {
    fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    fn read_with(&self, reader: &mut TensorReader, values: &mut [f32]) -> Result<()> {
        if self.strides == row_major_strides(&self.shape) {
            return self.read_span(reader, values);
        }

        // Strided, as a transposed view is saved: reading the whole span once and gathering from memory beats
        // a request to the store for each element.
        let mut span = vec![0.0; span_len(&self.shape, &self.strides).unwrap_or(0)];
        self.read_span(reader, &mut span)?;
        for (at, value) in values.iter_mut().enumerate() {
            let mut rest = at;
            let axes = self.shape.iter().zip(&self.strides).rev();
            let place: usize = axes
                .map(|(size, stride)| {
                    let index = rest % size;
                    rest /= size;
                    index * stride
                })
                .sum();

            *value = span[place];
        }

        Ok(())
    }

    /// The bytes of its file from the first number to the last.
    ///
    /// # Errors
    /// If its entry of an archive is not there, or is compressed, or ends before the last number.
    pub(super) fn byte_range(&self) -> Result<Range<u64>> {
        let span = span_len(&self.shape, &self.strides).unwrap_or(0);
        let length = (span * dtype_size(self.dtype)) as u64;
        let start = self.file.data_offset(&self.location, length)?;
        Ok(start..start + length)
    }

    /// The numbers as they lie.
    fn read_span(&self, reader: &mut TensorReader, values: &mut [f32]) -> Result<()> {
        let convert = converter_for(self.dtype).ok_or_else(|| {
            let uri = self.file.uri();
            let dtype = self.dtype;
            Error::Data(format!(
                "{uri} holds numbers of kind {dtype}, which weights do not come in"
            ))
        })?;

        let size = dtype_size(self.dtype);
        let mut range = self.byte_range()?;
        let mut rest = values;

        while !rest.is_empty() {
            let bytes = reader.read_some(&self.file, range.clone(), size as u64)?;
            let (values, tail) = rest.split_at_mut(bytes.len() / size);
            convert(&bytes, values);
            range.start += bytes.len() as u64;
            rest = tail;
        }

        Ok(())
    }
}

/// Numbers from the first of an array to the last; `None` if that is more than there can be.
pub(super) fn span_len(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |last, (size, stride)| {
            last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)
        });

    last?.checked_add(1)
}

/// The strides of an array that lies in rows without gaps.
pub(super) fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Saturating: an array without numbers may have axes of any length.
        strides[axis - 1] = usize::saturating_mul(strides[axis], shape[axis]);
    }

    strides
}
