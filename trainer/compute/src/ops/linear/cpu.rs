//! The linear layer on the CPU.

use rayon::prelude::*;

use super::{Linear, WeightLayout};
use crate::gemm::matmul::gemm;
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut};
use crate::math::add_in_place;

impl Linear {
    pub(super) fn forward_host(
        &self,
        values: &[f32],
        x: &[f32],
        y: &mut [f32],
        accumulate: Accumulate,
    ) {
        // The bias is written first and the product added to it: one pass over `y` fewer than after it.
        let accumulate = match &self.bias {
            Some(bias) => {
                add_bias(bias.slice_of(values), y, accumulate);
                Accumulate::Yes
            }
            None => accumulate,
        };

        gemm(
            self.weight.precision(),
            MatrixViewMut::new(y, self.outputs()),
            accumulate,
            1.0,
            MatrixView::new(x, self.inputs),
            self.weight_matrix(values).transposed(),
            GemmThreads::All,
        );
    }

    pub(super) fn backward_input_host(
        &self,
        values: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        accumulate: Accumulate,
    ) {
        gemm(
            self.weight.precision(),
            MatrixViewMut::new(dx, self.inputs),
            accumulate,
            1.0,
            MatrixView::new(dy, self.outputs()),
            self.weight_matrix(values),
            GemmThreads::All,
        );
    }

    pub(super) fn backward_weights_host(&self, gradients: &mut [f32], x: &[f32], dy: &[f32]) {
        let x = MatrixView::new(x, self.inputs);
        let dy_matrix = MatrixView::new(dy, self.outputs());
        let (a, b, cols) = match self.layout {
            WeightLayout::OutputsFirst => (dy_matrix.transposed(), x, self.inputs),
            WeightLayout::InputsFirst => (x.transposed(), dy_matrix, self.outputs()),
        };

        gemm(
            self.weight.precision(),
            MatrixViewMut::new(self.weight.slice_of_mut(gradients), cols),
            Accumulate::Yes,
            1.0,
            a,
            b,
            GemmThreads::All,
        );

        if let Some(bias) = &self.bias {
            add_column_sums(dy, bias.slice_of_mut(gradients));
        }
    }

    /// `W`.
    fn weight_matrix<'a>(&self, values: &'a [f32]) -> MatrixView<'a> {
        let weight = self.weight.slice_of(values);
        match self.layout {
            WeightLayout::OutputsFirst => MatrixView::new(weight, self.inputs),
            WeightLayout::InputsFirst => MatrixView::new(weight, self.outputs()).transposed(),
        }
    }
}

fn add_bias(bias: &[f32], y: &mut [f32], accumulate: Accumulate) {
    /// Rows that a task takes at least: fewer would cost more in scheduling than in arithmetic.
    const MIN_ROWS: usize = 16;
    y.par_chunks_mut(bias.len())
        .with_min_len(MIN_ROWS)
        .for_each(|row| match accumulate {
            Accumulate::No => row.copy_from_slice(bias),
            Accumulate::Yes => add_in_place(row, bias),
        });
}

pub(super) fn add_column_sums(rows: &[f32], sums: &mut [f32]) {
    /// Columns that one thread sums: two cache lines.
    const COLUMNS: usize = 32;
    let width = sums.len();
    // Threads share out columns, not rows: each sum is made by one thread in the order of the rows.
    sums.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(chunk, sums)| {
            let start = chunk * COLUMNS;
            for row in rows.chunks_exact(width) {
                add_in_place(sums, &row[start..start + sums.len()]);
            }
        });
}
