//! Products, by the trainer's own.

use cnclip_compute::device::{Address, Fault, Format, Operand, Product};
use cnclip_compute::gemm::{Matrix, MatrixMut, Onto, Threads, product};
use half::bf16;

use crate::memory::Memory;

/// Multiplies every pair of a batch.
pub(crate) fn multiply(memory: &mut Memory, wanted: &Product) -> Result<(), Fault> {
    let bias = match wanted.bias {
        Some(at) => line(memory, at, wanted.target.format, wanted.target.cols)?,
        None => vec![0.0; wanted.target.cols],
    };

    for index in 0..wanted.batch {
        let a = gather(memory, wanted.a, index)?;
        let b = gather(memory, wanted.b, index)?;
        let mut found = vec![0.0; wanted.target.rows * wanted.target.cols];

        if wanted.add {
            found = gather(memory, wanted.target, index)?;
        }

        if found.is_empty() {
            continue;
        }

        for row in found.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
        }

        let pair = (matrix(&a, wanted.a), matrix(&b, wanted.b));
        let target = MatrixMut::new(&mut found, wanted.target.cols);
        product(target, Onto::Add, wanted.scale, pair, Threads::One);
        scatter(memory, wanted.target, index, &found)?;
    }

    Ok(())
}

fn matrix(values: &[f32], operand: Operand) -> Matrix<'_> {
    let matrix = Matrix::strided(values, operand.rows, operand.cols, operand.cols);
    if operand.transposed {
        matrix.transposed()
    } else {
        matrix
    }
}

/// Where a row of a matrix of a batch lies.
fn place(operand: Operand, index: usize, row: usize) -> Address {
    let first = index * operand.batch_stride + row * operand.row_stride;
    operand.address + (first * operand.format.bytes()) as Address
}

fn gather(memory: &Memory, operand: Operand, index: usize) -> Result<Vec<f32>, Fault> {
    let rows = (0..operand.rows).map(|row| {
        line(
            memory,
            place(operand, index, row),
            operand.format,
            operand.cols,
        )
    });

    Ok(rows.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Neighbours in a number format.
fn line(memory: &Memory, at: Address, format: Format, count: usize) -> Result<Vec<f32>, Fault> {
    let bytes = memory.read(at, count * format.bytes())?;
    let values = match format {
        Format::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| f32::from_ne_bytes(*word))
            .collect(),
        Format::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| bf16::from_ne_bytes(*word).to_f32())
            .collect(),
        Format::U32 | Format::U8 => return Err(Fault::broken("a product", "of whole numbers")),
    };

    Ok(values)
}

fn scatter(
    memory: &mut Memory,
    operand: Operand,
    index: usize,
    values: &[f32],
) -> Result<(), Fault> {
    for (row, values) in values.chunks_exact(operand.cols).enumerate() {
        let bytes: Vec<u8> = match operand.format {
            Format::F32 => values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_ne_bytes())
                .collect(),
        };

        memory
            .write(place(operand, index, row), bytes.len())?
            .copy_from_slice(&bytes);
    }

    Ok(())
}
