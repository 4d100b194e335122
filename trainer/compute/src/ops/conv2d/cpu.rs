//! Convolution in this machine's memory: each thread lays out its share of the neighbourhoods, piece by
//! piece, and multiplies them.

use rayon::prelude::*;

use super::{Conv2d, ConvGeometry, KERNEL_TAPS};
use crate::gemm::matmul::gemm;
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut};

/// Numbers of laid out rows that one thread multiplies at a time.
const MAX_IM2COL_LEN: usize = 1 << 18;

/// Numbers in a cache line: how many outputs of a weight are moved at a time.
const CACHE_LINE_LEN: usize = 16;

/// What one thread needs.
#[derive(Debug, Default)]
pub(super) struct ConvThreadScratch {
    rows: Vec<f32>,
    sums: Vec<f32>,
}

/// Grows to what this convolution needs of every thread.
pub(super) fn reserve_scratch(parts: &mut Vec<ConvThreadScratch>, convolution: &Conv2d) {
    let row = KERNEL_TAPS * convolution.geometry.channels.max(convolution.outputs);
    let grow = |array: &mut Vec<f32>, length| array.resize(array.len().max(length), 0.0);
    parts.resize_with(rayon::current_num_threads(), ConvThreadScratch::default);

    for ConvThreadScratch { rows, sums } in parts {
        grow(rows, MAX_IM2COL_LEN.max(row));
        grow(sums, convolution.weight.len());
    }
}

impl ConvGeometry {
    /// Writes the neighbourhoods of all places from `first` on, counted through all pictures.
    fn im2col(&self, x: &[f32], first: usize, rows: &mut [f32]) {
        let line = self.output_side();
        let picture = self.side * self.side * self.channels;
        for (at, row) in rows.chunks_exact_mut(self.patch_len()).enumerate() {
            let top = (first + at) / line;
            let left = (first + at) % line;
            let sample = top / line;
            let top = top % line;
            let picture = &x[sample * picture..(sample + 1) * picture];

            self.copy_window(picture, (top * self.stride, left * self.stride), row);
        }
    }

    /// The channels of the 3 × 3 pixels around one, zero where the picture ends.
    fn copy_window(&self, picture: &[f32], (top, left): (usize, usize), row: &mut [f32]) {
        let side = self.side;
        let channels = self.channels;
        let before = usize::from(left == 0);
        let after = usize::from(left + 1 == side);
        let inside = before * channels..(3 - after) * channels;

        for (tap, pixels) in row.chunks_exact_mut(3 * channels).enumerate() {
            let y = (top + tap).wrapping_sub(1);
            if y >= side {
                pixels.fill(0.0);
                continue;
            }

            let start = (y * side + left + before - 1) * channels;
            pixels[..inside.start].fill(0.0);
            pixels[inside.clone()].copy_from_slice(&picture[start..start + inside.len()]);
            pixels[inside.end..].fill(0.0);
        }
    }

    /// Writes the product of all neighbourhoods with a matrix.
    fn im2col_gemm(
        &self,
        x: &[f32],
        matrix: MatrixView<'_>,
        y: &mut [f32],
        parts: &mut [ConvThreadScratch],
    ) {
        let row = self.patch_len();
        let outputs = y.len() / self.count_output_pixels(x);
        let (share, step) = self.split_output_pixels(x, parts.len());
        let work = y.par_chunks_mut(share * outputs).zip(parts).enumerate();
        work.for_each(|(part, (y, ConvThreadScratch { rows, .. }))| {
            for (piece, y) in y.chunks_mut(step * outputs).enumerate() {
                let rows = &mut rows[..y.len() / outputs * row];
                self.im2col(x, part * share + piece * step, rows);
                let pair = (MatrixView::new(rows, row), matrix);
                gemm(
                    self.precision,
                    MatrixViewMut::new(y, outputs),
                    Accumulate::No,
                    1.0,
                    pair,
                    GemmThreads::One,
                );
            }
        });
    }

    /// Leaves in every part its share of the gradient of the matrix, given that of the product; gives
    /// how many parts have one.
    fn weight_gradients(&self, x: &[f32], dy: &[f32], parts: &mut [ConvThreadScratch]) -> usize {
        let row = self.patch_len();
        let outputs = dy.len() / self.count_output_pixels(x);
        let (share, step) = self.split_output_pixels(x, parts.len());
        let work = dy.par_chunks(share * outputs).zip(parts).enumerate();
        let count = work.len();

        work.for_each(|(part, (dy, ConvThreadScratch { rows, sums }))| {
            for (piece, dy) in dy.chunks(step * outputs).enumerate() {
                let rows = &mut rows[..dy.len() / outputs * row];
                self.im2col(x, part * share + piece * step, rows);
                let target = MatrixViewMut::new(&mut sums[..row * outputs], outputs);
                let onto = if piece == 0 {
                    Accumulate::No
                } else {
                    Accumulate::Yes
                };
                let pair = (
                    MatrixView::new(rows, row).transposed(),
                    MatrixView::new(dy, outputs),
                );

                gemm(self.precision, target, onto, 1.0, pair, GemmThreads::One);
            }
        });

        count
    }

    fn count_output_pixels(&self, x: &[f32]) -> usize {
        x.len() / (self.side * self.side * self.channels) * self.output_side().pow(2)
    }

    /// Places for each part, and places that a part takes at a time.
    fn split_output_pixels(&self, x: &[f32], parts: usize) -> (usize, usize) {
        (
            self.count_output_pixels(x).div_ceil(parts),
            (MAX_IM2COL_LEN / self.patch_len()).max(1),
        )
    }
}

impl Conv2d {
    pub(super) fn forward_host(
        &self,
        weight: &[f32],
        x: &[f32],
        y: &mut [f32],
        (matrix, parts): (&mut [f32], &mut [ConvThreadScratch]),
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_weight(weight, matrix);
        self.geometry
            .im2col_gemm(x, MatrixView::new(matrix, self.outputs), y, parts);
    }

    pub(super) fn backward_weights_host(
        &self,
        gradient: &mut [f32],
        x: &[f32],
        dy: &[f32],
        parts: &mut [ConvThreadScratch],
    ) {
        let count = self.geometry.weight_gradients(x, dy, parts);
        for ConvThreadScratch { sums, .. } in &parts[..count] {
            self.unpack_weight_gradient(sums, gradient);
        }
    }

    pub(super) fn backward_input_host(
        &self,
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        (matrix, parts): (&mut [f32], &mut [ConvThreadScratch]),
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_flipped_weight(weight, matrix);
        self.geometry.with_channels(self.outputs).im2col_gemm(
            dy,
            MatrixView::new(matrix, self.geometry.channels),
            dx,
            parts,
        );
    }

    /// [outputs, inputs, taps] to [taps, inputs, outputs].
    fn pack_weight(&self, weight: &[f32], matrix: &mut [f32]) {
        let row = self.geometry.patch_len();
        let outputs = self.outputs;
        let taps = matrix
            .par_chunks_mut(self.geometry.channels * outputs)
            .enumerate();

        taps.for_each(|(tap, matrix)| {
            for start in (0..outputs).step_by(CACHE_LINE_LEN) {
                for (input, line) in matrix.chunks_exact_mut(outputs).enumerate() {
                    let from = weight[start * row + input * KERNEL_TAPS + tap..]
                        .iter()
                        .step_by(row);

                    line[start..]
                        .iter_mut()
                        .take(CACHE_LINE_LEN)
                        .zip(from)
                        .for_each(|(m, w)| *m = *w);
                }
            }
        });
    }

    /// [outputs, inputs, taps] to [taps backwards, outputs, inputs].
    fn pack_flipped_weight(&self, weight: &[f32], matrix: &mut [f32]) {
        let row = self.geometry.patch_len();
        let inputs = self.geometry.channels;
        let taps = matrix
            .par_chunks_mut(inputs * self.outputs)
            .rev()
            .enumerate();

        taps.for_each(|(tap, matrix)| {
            for (line, weight) in matrix
                .chunks_exact_mut(inputs)
                .zip(weight.chunks_exact(row))
            {
                let from = weight[tap..].iter().step_by(KERNEL_TAPS);
                line.iter_mut().zip(from).for_each(|(m, w)| *m = *w);
            }
        });
    }

    /// Adds [taps, inputs, outputs] to [outputs, inputs, taps].
    fn unpack_weight_gradient(&self, matrix: &[f32], weight: &mut [f32]) {
        let row = self.geometry.patch_len();
        let inputs = self.geometry.channels;
        let outputs = self.outputs;
        weight
            .par_chunks_mut(CACHE_LINE_LEN * row)
            .enumerate()
            .for_each(|(block, weight)| {
                for at in 0..row {
                    let from = (at % KERNEL_TAPS * inputs + at / KERNEL_TAPS) * outputs
                        + block * CACHE_LINE_LEN;
                    let to = weight[at..].iter_mut().step_by(row);
                    to.zip(&matrix[from..]).for_each(|(w, m)| *w += m);
                }
            });
    }
}
