//! Products, by the trainer's own.

use cnclip_compute::device::{DType, DeviceAddress, DeviceError, Gemm, MatrixDesc};
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use half::bf16;

use crate::memory::EmulatedMemory;

/// Multiplies every pair of a batch.
pub(crate) fn batched_gemm(memory: &mut EmulatedMemory, wanted: &Gemm) -> Result<(), DeviceError> {
    let bias = match wanted.bias {
        Some(at) => read_row(memory, at, wanted.target.dtype, wanted.target.cols)?,
        None => vec![0.0; wanted.target.cols],
    };

    for index in 0..wanted.batch {
        let a = read_matrix(memory, wanted.a, index)?;
        let b = read_matrix(memory, wanted.b, index)?;
        let mut found = vec![0.0; wanted.target.rows * wanted.target.cols];

        if wanted.accumulate {
            found = read_matrix(memory, wanted.target, index)?;
        }

        if found.is_empty() {
            continue;
        }

        for row in found.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
        }

        gemm_f32(
            MatrixViewMut::new(&mut found, wanted.target.cols),
            Accumulate::Yes,
            wanted.alpha,
            matrix_view(&a, wanted.a),
            matrix_view(&b, wanted.b),
            GemmThreads::One,
        );

        write_matrix(memory, wanted.target, index, &found)?;
    }

    Ok(())
}

fn matrix_view(values: &[f32], operand: MatrixDesc) -> MatrixView<'_> {
    let matrix = MatrixView::strided(values, operand.rows, operand.cols, operand.cols);
    if operand.transposed {
        matrix.transposed()
    } else {
        matrix
    }
}

/// Where a row of a matrix of a batch lies.
fn row_address(operand: MatrixDesc, index: usize, row: usize) -> DeviceAddress {
    let first = index * operand.batch_stride + row * operand.row_stride;
    operand.address + (first * operand.dtype.size_in_bytes()) as DeviceAddress
}

fn read_matrix(
    memory: &EmulatedMemory,
    operand: MatrixDesc,
    index: usize,
) -> Result<Vec<f32>, DeviceError> {
    let rows = (0..operand.rows).map(|row| {
        read_row(
            memory,
            row_address(operand, index, row),
            operand.dtype,
            operand.cols,
        )
    });

    Ok(rows.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Neighbours in a number format.
fn read_row(
    memory: &EmulatedMemory,
    at: DeviceAddress,
    format: DType,
    count: usize,
) -> Result<Vec<f32>, DeviceError> {
    let bytes = memory.read_bytes(at, count * format.size_in_bytes())?;
    let values = match format {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| f32::from_ne_bytes(*word))
            .collect(),
        DType::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| bf16::from_ne_bytes(*word).to_f32())
            .collect(),
        DType::U32 | DType::U8 => return Err(DeviceError::failed("a product", "of whole numbers")),
    };

    Ok(values)
}

fn write_matrix(
    memory: &mut EmulatedMemory,
    operand: MatrixDesc,
    index: usize,
    values: &[f32],
) -> Result<(), DeviceError> {
    for (row, values) in values.chunks_exact(operand.cols).enumerate() {
        let bytes: Vec<u8> = match operand.dtype {
            DType::F32 => values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_ne_bytes())
                .collect(),
        };

        memory
            .bytes_mut(row_address(operand, index, row), bytes.len())?
            .copy_from_slice(&bytes);
    }

    Ok(())
}
