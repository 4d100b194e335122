//! Convolution on the CPU: each thread lays out its share of the windows, piece by piece, and multiplies
//! them.

use rayon::prelude::*;

use super::{Conv2d, ConvGeometry, KERNEL_TAPS};
use crate::gemm::matmul::gemm;
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut};

/// Numbers of laid out rows that one thread multiplies at a time: 1 MiB, which stays in a core's L2 cache.
const MAX_IM2COL_LEN: usize = 1 << 18;

/// Numbers in a cache line: as many outputs of a weight are transposed at a time, so that no line is read
/// more than once.
const CACHE_LINE_LEN: usize = 16;

/// Memory of one thread.
#[derive(Debug, Default)]
pub(super) struct ConvThreadScratch {
    rows: Vec<f32>,
    sums: Vec<f32>,
}

/// Grows to what this convolution needs on every thread.
pub(super) fn reserve_scratch(scratch: &mut Vec<ConvThreadScratch>, convolution: &Conv2d) {
    let row = KERNEL_TAPS * convolution.geometry.channels.max(convolution.outputs);
    let grow = |array: &mut Vec<f32>, length| array.resize(array.len().max(length), 0.0);
    scratch.resize_with(rayon::current_num_threads(), ConvThreadScratch::default);

    for ConvThreadScratch { rows, sums } in scratch {
        grow(rows, MAX_IM2COL_LEN.max(row));
        grow(sums, convolution.weight.len());
    }
}

impl ConvGeometry {
    /// Writes the windows of consecutive output pixels; `first` is counted through all images.
    fn im2col(&self, x: &[f32], first: usize, rows: &mut [f32]) {
        let output_side = self.output_side();
        let image_len = self.side * self.side * self.channels;
        for (at, row) in rows.chunks_exact_mut(self.patch_len()).enumerate() {
            let line = (first + at) / output_side;
            let left = (first + at) % output_side;
            let sample = line / output_side;
            let top = line % output_side;
            let image = &x[sample * image_len..(sample + 1) * image_len];

            self.copy_window(image, top * self.stride, left * self.stride, row);
        }
    }

    /// The channels of the 3 × 3 pixels around one, zero outside of the image.
    fn copy_window(&self, image: &[f32], top: usize, left: usize, row: &mut [f32]) {
        let side = self.side;
        let channels = self.channels;
        let before = usize::from(left == 0);
        let after = usize::from(left + 1 == side);
        let inside = before * channels..(3 - after) * channels;

        for (tap, pixels) in row.chunks_exact_mut(3 * channels).enumerate() {
            // Above the first line this wraps to a large number, which is outside as well.
            let y = (top + tap).wrapping_sub(1);
            if y >= side {
                pixels.fill(0.0);
                continue;
            }

            // At the left edge `before` is 1, which keeps the difference from underflowing.
            let start = (y * side + left + before - 1) * channels;
            pixels[..inside.start].fill(0.0);
            pixels[inside.clone()].copy_from_slice(&image[start..start + inside.len()]);
            pixels[inside.end..].fill(0.0);
        }
    }

    /// Writes the product of all windows with a matrix.
    fn im2col_gemm(
        &self,
        x: &[f32],
        matrix: MatrixView<'_>,
        y: &mut [f32],
        scratch: &mut [ConvThreadScratch],
    ) {
        let row_len = self.patch_len();
        let pixels = self.count_output_pixels(x.len());
        let outputs = y.len() / pixels;
        let share = pixels.div_ceil(scratch.len());
        let step = self.pixels_per_piece();

        let work = y.par_chunks_mut(share * outputs).zip(scratch).enumerate();
        work.for_each(|(part, (y, ConvThreadScratch { rows, .. }))| {
            for (piece, y) in y.chunks_mut(step * outputs).enumerate() {
                let rows = &mut rows[..y.len() / outputs * row_len];
                self.im2col(x, part * share + piece * step, rows);
                gemm(
                    self.precision,
                    MatrixViewMut::new(y, outputs),
                    Accumulate::No,
                    1.0,
                    MatrixView::new(rows, row_len),
                    matrix,
                    GemmThreads::One,
                );
            }
        });
    }

    /// Leaves in every thread's `sums` its share of the gradient of the matrix, and gives how many threads
    /// have one.
    fn weight_gradients(&self, x: &[f32], dy: &[f32], scratch: &mut [ConvThreadScratch]) -> usize {
        let row_len = self.patch_len();
        let pixels = self.count_output_pixels(x.len());
        let outputs = dy.len() / pixels;
        let share = pixels.div_ceil(scratch.len());
        let step = self.pixels_per_piece();
        let work = dy.par_chunks(share * outputs).zip(scratch).enumerate();
        let count = work.len();

        work.for_each(|(part, (dy, ConvThreadScratch { rows, sums }))| {
            for (piece, dy) in dy.chunks(step * outputs).enumerate() {
                let rows = &mut rows[..dy.len() / outputs * row_len];
                self.im2col(x, part * share + piece * step, rows);
                // The first piece replaces what the last call left in `sums`.
                let accumulate = if piece == 0 {
                    Accumulate::No
                } else {
                    Accumulate::Yes
                };

                gemm(
                    self.precision,
                    MatrixViewMut::new(&mut sums[..row_len * outputs], outputs),
                    accumulate,
                    1.0,
                    MatrixView::new(rows, row_len).transposed(),
                    MatrixView::new(dy, outputs),
                    GemmThreads::One,
                );
            }
        });

        count
    }

    /// Output pixels that a thread takes at a time.
    fn pixels_per_piece(&self) -> usize {
        (MAX_IM2COL_LEN / self.patch_len()).max(1)
    }
}

impl Conv2d {
    pub(super) fn forward_host(
        &self,
        weight: &[f32],
        x: &[f32],
        y: &mut [f32],
        matrix: &mut [f32],
        scratch: &mut [ConvThreadScratch],
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_weight(weight, matrix);
        self.geometry
            .im2col_gemm(x, MatrixView::new(matrix, self.outputs), y, scratch);
    }

    pub(super) fn backward_weights_host(
        &self,
        gradient: &mut [f32],
        x: &[f32],
        dy: &[f32],
        scratch: &mut [ConvThreadScratch],
    ) {
        let count = self.geometry.weight_gradients(x, dy, scratch);
        // In the order of the shares: the sum depends on how many threads there are, but not on which of
        // them was faster.
        for ConvThreadScratch { sums, .. } in &scratch[..count] {
            self.unpack_weight_gradient(sums, gradient);
        }
    }

    pub(super) fn backward_input_host(
        &self,
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        matrix: &mut [f32],
        scratch: &mut [ConvThreadScratch],
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_flipped_weight(weight, matrix);
        self.geometry.with_channels(self.outputs).im2col_gemm(
            dy,
            MatrixView::new(matrix, self.geometry.channels),
            dx,
            scratch,
        );
    }

    /// `[outputs, inputs, taps]` to `[taps, inputs, outputs]`.
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

    /// `[outputs, inputs, taps]` to `[taps in reverse, outputs, inputs]`.
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

    /// Adds `[taps, inputs, outputs]` to `[outputs, inputs, taps]`.
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
