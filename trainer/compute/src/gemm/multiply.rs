//! Products of the towers in the number format that a run asks for. Decides how operands are rounded;
//! [`matrix`](crate::gemm) multiplies them.
//!
//! A processor multiplies in fp32, so `Bf16` here costs time and saves no memory: it shows on a CPU what
//! a device with bfloat16 units computes. Operands are rounded to the nearest, ties to even; products
//! are added up in fp32; weights, gradients, normalisation, softmax and loss stay in fp32.

use std::cell::Cell;

use cnclip_crds::stage::Precision;
use half::bf16;

use crate::gemm::{Matrix, MatrixMut, Onto, Threads, product};

thread_local! {
    /// Rounded operands. As large as a thread's largest product after its first step, and kept.
    static ROUNDED: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// `target = scale · a · b`, or added to the target, of operands in a number format.
pub fn multiply(
    precision: Precision,
    target: MatrixMut<'_>,
    onto: Onto,
    scale: f32,
    (a, b): (Matrix<'_>, Matrix<'_>),
    threads: Threads,
) {
    if precision == Precision::Fp32 {
        return product(target, onto, scale, (a, b), threads);
    }

    // Taken, not borrowed: while this thread waits for others, it may begin another product.
    let mut memory = ROUNDED.take();
    let [first, second] = &mut memory;
    let pair = (rounded(a, first), rounded(b, second));
    product(target, onto, scale, pair, threads);
    ROUNDED.set(memory);
}

/// The same matrix with its numbers rounded, in memory that grows to hold them.
fn rounded<'a>(matrix: Matrix<'_>, memory: &'a mut Vec<f32>) -> Matrix<'a> {
    memory.resize(memory.len().max(matrix.len()), 0.0);
    matrix.packed(memory, |target, line| {
        target
            .iter_mut()
            .zip(line)
            .for_each(|(y, x)| *y = bf16::from_f32(*x).to_f32());
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{stream, uniform};

    #[test]
    fn operands_are_rounded_and_sums_are_not() {
        // 1 + 2⁻⁸ lies half way between two numbers of eight bits, and 1 is the even one.
        let half_way = 1.0 + 1.0 / 256.0;
        let above = 1.0 + 1.5 / 256.0;
        let a = [half_way, above, 1.0];
        let b = [1.0, 1.0, 1.0 / 1024.0];
        let mut y = [0.0];
        let pair = (Matrix::new(&a, 3), Matrix::new(&b, 1));
        let target = MatrixMut::new(&mut y, 1);

        multiply(
            Precision::Bf16,
            target,
            Onto::Replace,
            1.0,
            pair,
            Threads::One,
        );

        assert_eq!(y, [1.0 + (1.0 + 1.0 / 128.0) + 1.0 / 1024.0]);
    }

    #[test]
    fn strided_and_transposed_views_are_rounded_where_they_lie() {
        let numbers = |length: u64, seed| -> Vec<f32> {
            (0..length)
                .map(|i| uniform(stream(seed, i)) - 0.5)
                .collect()
        };

        let a = numbers(7 * 17, 1);
        let b = numbers(11 * 17, 2);
        let round = |values: &[f32]| -> Vec<f32> {
            values
                .iter()
                .map(|&value| bf16::from_f32(value).to_f32())
                .collect()
        };

        let product_of = |precision, a: &[f32], b: &[f32]| {
            let mut y = vec![0.0; 77];
            let left = Matrix::strided(a, 7, 13, 17);
            let pair = (left, Matrix::strided(b, 11, 13, 17).transposed());
            multiply(
                precision,
                MatrixMut::new(&mut y, 11),
                Onto::Replace,
                0.5,
                pair,
                Threads::All,
            );

            y
        };

        let found = product_of(Precision::Bf16, &a, &b);
        assert_eq!(found, product_of(Precision::Fp32, &round(&a), &round(&b)));
        assert_ne!(found, product_of(Precision::Fp32, &a, &b));
    }
}
