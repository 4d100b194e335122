//! Matrix products of the towers in the number format of a run: rounds the operands, then multiplies with
//! [`gemm_f32`].
//!
//! A CPU multiplies in fp32, so `Bf16` here costs time and saves no memory: it shows what a device with
//! bfloat16 tensor cores computes. Operands are rounded to nearest, ties to even; sums are in fp32; weights,
//! gradients, normalization, softmax and loss stay in fp32.

use std::cell::Cell;

use cnclip_crds::stage::Precision;
use half::bf16;

use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};

thread_local! {
    /// Rounded operands: after the first step as large as the thread's largest product, and kept.
    static BF16_OPERANDS: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// `target = scale · a · b`, or added to the target, with operands in a number format.
pub fn gemm(
    precision: Precision,
    target: MatrixViewMut<'_>,
    accumulate: Accumulate,
    scale: f32,
    a: MatrixView<'_>,
    b: MatrixView<'_>,
    threads: GemmThreads,
) {
    if precision == Precision::Fp32 {
        return gemm_f32(target, accumulate, scale, a, b, threads);
    }

    // Taken, not borrowed: while this thread waits for others, rayon may let it begin another product.
    let mut memory = BF16_OPERANDS.take();
    let [a_memory, b_memory] = &mut memory;
    // The product of two bfloat16 numbers is exact in fp32: as on tensor cores, only sums round.
    let a = round_to_bf16(a, a_memory);
    let b = round_to_bf16(b, b_memory);
    gemm_f32(target, accumulate, scale, a, b, threads);
    BF16_OPERANDS.set(memory);
}

/// The same matrix with its numbers rounded, in memory that grows to hold them.
fn round_to_bf16<'a>(matrix: MatrixView<'_>, memory: &'a mut Vec<f32>) -> MatrixView<'a> {
    // Never shortened: the next larger product would fill the memory with zeros again.
    memory.resize(memory.len().max(matrix.len()), 0.0);
    matrix.pack_into(memory, |target, line| {
        target
            .iter_mut()
            .zip(line)
            .for_each(|(y, x)| *y = bf16::from_f32(*x).to_f32());
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{derive_key, uniform_f32};

    #[test]
    fn operands_are_rounded_and_sums_are_not() {
        // 1 + 2⁻⁸ lies half way between two numbers of eight bits, and 1 is the even one.
        let half_way = 1.0 + 1.0 / 256.0;
        let above = 1.0 + 1.5 / 256.0;
        let a = [half_way, above, 1.0];
        let b = [1.0, 1.0, 1.0 / 1024.0];
        let mut y = [0.0];
        let target = MatrixViewMut::new(&mut y, 1);

        gemm(
            Precision::Bf16,
            target,
            Accumulate::No,
            1.0,
            MatrixView::new(&a, 3),
            MatrixView::new(&b, 1),
            GemmThreads::One,
        );

        assert_eq!(y, [1.0 + (1.0 + 1.0 / 128.0) + 1.0 / 1024.0]);
    }

    #[test]
    fn strided_and_transposed_views_are_rounded_where_they_lie() {
        let numbers = |length: u64, seed| -> Vec<f32> {
            (0..length)
                .map(|i| uniform_f32(derive_key(seed, i)) - 0.5)
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
            let left = MatrixView::strided(a, 7, 13, 17);
            let right = MatrixView::strided(b, 11, 13, 17).transposed();
            gemm(
                precision,
                MatrixViewMut::new(&mut y, 11),
                Accumulate::No,
                0.5,
                left,
                right,
                GemmThreads::All,
            );

            y
        };

        let found = product_of(Precision::Bf16, &a, &b);
        assert_eq!(found, product_of(Precision::Fp32, &round(&a), &round(&b)));
        assert_ne!(found, product_of(Precision::Fp32, &a, &b));
    }
}
