//! Convolution in this machine's memory: each thread lays out its share of the neighbourhoods, piece by
//! piece, and multiplies them.

use rayon::prelude::*;

use super::{Conv2d, Grid, TAPS};
use crate::gemm::multiply::multiply;
use crate::gemm::{Matrix, MatrixMut, Onto, Threads};

/// Numbers of laid out rows that one thread multiplies at a time.
const PIECE: usize = 1 << 18;

/// Numbers in a cache line: how many outputs of a weight are moved at a time.
const LINE: usize = 16;

/// What one thread needs.
#[derive(Debug, Default)]
pub(super) struct Part {
    rows: Vec<f32>,
    sums: Vec<f32>,
}

/// Grows to what this convolution needs of every thread.
pub(super) fn fit(parts: &mut Vec<Part>, convolution: &Conv2d) {
    let row = TAPS * convolution.grid.channels.max(convolution.outputs);
    let grow = |array: &mut Vec<f32>, length| array.resize(array.len().max(length), 0.0);
    parts.resize_with(rayon::current_num_threads(), Part::default);

    for Part { rows, sums } in parts {
        grow(rows, PIECE.max(row));
        grow(sums, convolution.weight.len());
    }
}

impl Grid {
    /// Writes the neighbourhoods of all places from `first` on, counted through all pictures.
    fn unfold(&self, x: &[f32], first: usize, rows: &mut [f32]) {
        let line = self.line();
        let picture = self.side * self.side * self.channels;
        for (at, row) in rows.chunks_exact_mut(self.row()).enumerate() {
            let top = (first + at) / line;
            let left = (first + at) % line;
            let sample = top / line;
            let top = top % line;
            let picture = &x[sample * picture..(sample + 1) * picture];

            self.neighbourhood(picture, (top * self.stride, left * self.stride), row);
        }
    }

    /// The channels of the 3 × 3 pixels around one, zero where the picture ends.
    fn neighbourhood(&self, picture: &[f32], (top, left): (usize, usize), row: &mut [f32]) {
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
    fn convolve(&self, x: &[f32], matrix: Matrix<'_>, y: &mut [f32], parts: &mut [Part]) {
        let row = self.row();
        let outputs = y.len() / self.places(x);
        let (share, step) = self.shares(x, parts.len());
        let work = y.par_chunks_mut(share * outputs).zip(parts).enumerate();
        work.for_each(|(part, (y, Part { rows, .. }))| {
            for (piece, y) in y.chunks_mut(step * outputs).enumerate() {
                let rows = &mut rows[..y.len() / outputs * row];
                self.unfold(x, part * share + piece * step, rows);
                let pair = (Matrix::new(rows, row), matrix);
                multiply(
                    self.precision,
                    MatrixMut::new(y, outputs),
                    Onto::Replace,
                    1.0,
                    pair,
                    Threads::One,
                );
            }
        });
    }

    /// Leaves in every part its share of the gradient of the matrix, given that of the product; gives
    /// how many parts have one.
    fn correlate(&self, x: &[f32], dy: &[f32], parts: &mut [Part]) -> usize {
        let row = self.row();
        let outputs = dy.len() / self.places(x);
        let (share, step) = self.shares(x, parts.len());
        let work = dy.par_chunks(share * outputs).zip(parts).enumerate();
        let count = work.len();

        work.for_each(|(part, (dy, Part { rows, sums }))| {
            for (piece, dy) in dy.chunks(step * outputs).enumerate() {
                let rows = &mut rows[..dy.len() / outputs * row];
                self.unfold(x, part * share + piece * step, rows);
                let target = MatrixMut::new(&mut sums[..row * outputs], outputs);
                let onto = if piece == 0 { Onto::Replace } else { Onto::Add };
                let pair = (
                    Matrix::new(rows, row).transposed(),
                    Matrix::new(dy, outputs),
                );

                multiply(self.precision, target, onto, 1.0, pair, Threads::One);
            }
        });

        count
    }

    fn places(&self, x: &[f32]) -> usize {
        x.len() / (self.side * self.side * self.channels) * self.line().pow(2)
    }

    /// Places for each part, and places that a part takes at a time.
    fn shares(&self, x: &[f32], parts: usize) -> (usize, usize) {
        (self.places(x).div_ceil(parts), (PIECE / self.row()).max(1))
    }
}

impl Conv2d {
    pub(super) fn forward_host(
        &self,
        weight: &[f32],
        x: &[f32],
        y: &mut [f32],
        (matrix, parts): (&mut [f32], &mut [Part]),
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack(weight, matrix);
        self.grid
            .convolve(x, Matrix::new(matrix, self.outputs), y, parts);
    }

    pub(super) fn backward_weights_host(
        &self,
        gradient: &mut [f32],
        x: &[f32],
        dy: &[f32],
        parts: &mut [Part],
    ) {
        let count = self.grid.correlate(x, dy, parts);
        for Part { sums, .. } in &parts[..count] {
            self.unpack(sums, gradient);
        }
    }

    pub(super) fn backward_input_host(
        &self,
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        (matrix, parts): (&mut [f32], &mut [Part]),
    ) {
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_turned(weight, matrix);
        self.grid
            .of(self.outputs)
            .convolve(dy, Matrix::new(matrix, self.grid.channels), dx, parts);
    }

    /// [outputs, inputs, taps] to [taps, inputs, outputs].
    fn pack(&self, weight: &[f32], matrix: &mut [f32]) {
        let row = self.grid.row();
        let outputs = self.outputs;
        let taps = matrix
            .par_chunks_mut(self.grid.channels * outputs)
            .enumerate();

        taps.for_each(|(tap, matrix)| {
            for start in (0..outputs).step_by(LINE) {
                for (input, line) in matrix.chunks_exact_mut(outputs).enumerate() {
                    let from = weight[start * row + input * TAPS + tap..]
                        .iter()
                        .step_by(row);

                    line[start..]
                        .iter_mut()
                        .take(LINE)
                        .zip(from)
                        .for_each(|(m, w)| *m = *w);
                }
            }
        });
    }

    /// [outputs, inputs, taps] to [taps backwards, outputs, inputs].
    fn pack_turned(&self, weight: &[f32], matrix: &mut [f32]) {
        let row = self.grid.row();
        let inputs = self.grid.channels;
        let taps = matrix
            .par_chunks_mut(inputs * self.outputs)
            .rev()
            .enumerate();

        taps.for_each(|(tap, matrix)| {
            for (line, weight) in matrix
                .chunks_exact_mut(inputs)
                .zip(weight.chunks_exact(row))
            {
                let from = weight[tap..].iter().step_by(TAPS);
                line.iter_mut().zip(from).for_each(|(m, w)| *m = *w);
            }
        });
    }

    /// Adds [taps, inputs, outputs] to [outputs, inputs, taps].
    fn unpack(&self, matrix: &[f32], weight: &mut [f32]) {
        let row = self.grid.row();
        let inputs = self.grid.channels;
        let outputs = self.outputs;
        weight
            .par_chunks_mut(LINE * row)
            .enumerate()
            .for_each(|(block, weight)| {
                for at in 0..row {
                    let from = (at % TAPS * inputs + at / TAPS) * outputs + block * LINE;
                    let to = weight[at..].iter_mut().step_by(row);
                    to.zip(&matrix[from..]).for_each(|(w, m)| *w += m);
                }
            });
    }
}
