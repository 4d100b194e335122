//! Convolution of 3 × 3 with a border of zeros, over pictures whose channels are neighbours: the
//! neighbourhood of each place is laid out as one row, and the rest is a matrix product. It knows no
//! convolution of 1 × 1, which is a linear layer.

use cnclip_crds::stage::Precision;
use rayon::prelude::*;

use super::matrix::{Matrix, MatrixMut, Onto, Threads};
use super::multiply::multiply;
use crate::params::{Init, Layout, Weight};

/// Weights of one input channel for one output channel.
const TAPS: usize = 9;

/// Numbers of laid out rows that one thread multiplies at a time.
const PIECE: usize = 1 << 18;

/// Numbers in a cache line: how many outputs of a weight are moved at a time.
const LINE: usize = 16;

/// A convolution without bias.
///
/// # Shapes
/// `x` [batch, side, side, inputs], `y` [batch, ⌈side / stride⌉, ⌈side / stride⌉, outputs], and the
/// weight as the reference has it, [outputs, inputs, 3, 3].
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    grid: Grid,
    outputs: usize,
}

/// Square pictures, and the places in them that a convolution looks at.
#[derive(Clone, Copy, Debug)]
struct Grid {
    side: usize,
    channels: usize,
    stride: usize,
    precision: Precision,
}

impl Grid {
    /// Places of a picture along one side.
    fn line(&self) -> usize {
        self.side.div_ceil(self.stride)
    }

    /// Length of a neighbourhood.
    fn row(&self) -> usize {
        TAPS * self.channels
    }

    /// Writes the neighbourhoods of all places from `first` on, counted through all pictures.
    fn unfold(&self, x: &[f32], first: usize, rows: &mut [f32]) {
        let (line, picture) = (self.line(), self.side * self.side * self.channels);
        for (at, row) in rows.chunks_exact_mut(self.row()).enumerate() {
            let (top, left) = ((first + at) / line, (first + at) % line);
            let (sample, top) = (top / line, top % line);
            let picture = &x[sample * picture..(sample + 1) * picture];
            self.neighbourhood(picture, (top * self.stride, left * self.stride), row);
        }
    }

    /// The channels of the 3 × 3 pixels around one, zero where the picture ends.
    fn neighbourhood(&self, picture: &[f32], (top, left): (usize, usize), row: &mut [f32]) {
        let (side, channels) = (self.side, self.channels);
        let (before, after) = (usize::from(left == 0), usize::from(left + 1 == side));
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
        let (row, outputs) = (self.row(), y.len() / self.places(x));
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
        let (row, outputs) = (self.row(), dy.len() / self.places(x));
        let (share, step) = self.shares(x, parts.len());
        let work = dy.par_chunks(share * outputs).zip(parts).enumerate();
        let count = work.len();
        work.for_each(|(part, (dy, Part { rows, sums }))| {
            for (piece, dy) in dy.chunks(step * outputs).enumerate() {
                let rows = &mut rows[..dy.len() / outputs * row];
                self.unfold(x, part * share + piece * step, rows);
                let target = MatrixMut::new(&mut sums[..row * outputs], outputs);
                let onto = if piece == 0 { Onto::Replace } else { Onto::Add };
                let pair = (Matrix::new(rows, row).transposed(), Matrix::new(dy, outputs));
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

/// Memory that convolutions borrow in turn.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The weight as a matrix.
    matrix: Vec<f32>,
    parts: Vec<Part>,
}

/// What one thread needs.
#[derive(Debug, Default)]
struct Part {
    rows: Vec<f32>,
    sums: Vec<f32>,
}

impl Workspace {
    /// Grows to what this convolution needs.
    fn fit(&mut self, convolution: &Conv2d) {
        let row = TAPS * convolution.grid.channels.max(convolution.outputs);
        let grow = |array: &mut Vec<f32>, length| array.resize(array.len().max(length), 0.0);
        self.parts.resize_with(rayon::current_num_threads(), Part::default);
        grow(&mut self.matrix, convolution.weight.len());
        for Part { rows, sums } in &mut self.parts {
            grow(rows, PIECE.max(row));
            grow(sums, convolution.weight.len());
        }
    }
}

impl Conv2d {
    /// Declares `<name>.weight`, over pictures of `side` pixels, and makes room for it.
    pub fn declare(
        layout: &mut Layout,
        name: &str,
        (inputs, outputs): (usize, usize),
        (side, stride): (usize, usize),
        workspace: &mut Workspace,
    ) -> Self {
        let (name, shape) = (format!("{name}.weight"), [outputs, inputs, 3, 3]);
        let weight = layout.weight(&name, &shape, Init::fan_in(TAPS * inputs));
        let precision = layout.precision();
        let grid = Grid { side, channels: inputs, stride, precision };
        let convolution = Self { weight, grid, outputs };
        workspace.fit(&convolution);
        convolution
    }

    /// Channels that come out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Writes `y`.
    pub fn forward(&self, values: &[f32], x: &[f32], y: &mut [f32], workspace: &mut Workspace) {
        let Workspace { matrix, parts } = workspace;
        let matrix = &mut matrix[..self.weight.len()];
        self.pack(self.weight.of(values), matrix);
        self.grid.convolve(x, Matrix::new(matrix, self.outputs), y, parts);
    }

    /// Adds to the gradient of the weight.
    pub fn backward_weights(
        &self,
        gradients: &mut [f32],
        x: &[f32],
        dy: &[f32],
        Workspace { parts, .. }: &mut Workspace,
    ) {
        let count = self.grid.correlate(x, dy, parts);
        let gradient = self.weight.of_mut(gradients);
        for Part { sums, .. } in &parts[..count] {
            self.unpack(sums, gradient);
        }
    }

    /// Writes `dx`, for a stride of 1: the same convolution of `dy`, with the weight turned around.
    pub fn backward_input(
        &self,
        values: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        workspace: &mut Workspace,
    ) {
        assert_eq!(self.grid.stride, 1, "the first convolution's input needs no gradient");
        let Workspace { matrix, parts } = workspace;
        let matrix = &mut matrix[..self.weight.len()];
        self.pack_turned(self.weight.of(values), matrix);
        let grid = Grid { channels: self.outputs, ..self.grid };
        grid.convolve(dy, Matrix::new(matrix, self.grid.channels), dx, parts);
    }

    /// [outputs, inputs, taps] to [taps, inputs, outputs].
    fn pack(&self, weight: &[f32], matrix: &mut [f32]) {
        let (row, outputs) = (self.grid.row(), self.outputs);
        let taps = matrix.par_chunks_mut(self.grid.channels * outputs).enumerate();
        taps.for_each(|(tap, matrix)| {
            for start in (0..outputs).step_by(LINE) {
                for (input, line) in matrix.chunks_exact_mut(outputs).enumerate() {
                    let from = weight[start * row + input * TAPS + tap..].iter().step_by(row);
                    line[start..].iter_mut().take(LINE).zip(from).for_each(|(m, w)| *m = *w);
                }
            }
        });
    }

    /// [outputs, inputs, taps] to [taps backwards, outputs, inputs].
    fn pack_turned(&self, weight: &[f32], matrix: &mut [f32]) {
        let (row, inputs) = (self.grid.row(), self.grid.channels);
        let taps = matrix.par_chunks_mut(inputs * self.outputs).rev().enumerate();
        taps.for_each(|(tap, matrix)| {
            for (line, weight) in matrix.chunks_exact_mut(inputs).zip(weight.chunks_exact(row)) {
                let from = weight[tap..].iter().step_by(TAPS);
                line.iter_mut().zip(from).for_each(|(m, w)| *m = *w);
            }
        });
    }

    /// Adds [taps, inputs, outputs] to [outputs, inputs, taps].
    fn unpack(&self, matrix: &[f32], weight: &mut [f32]) {
        let (row, inputs, outputs) = (self.grid.row(), self.grid.channels, self.outputs);
        weight.par_chunks_mut(LINE * row).enumerate().for_each(|(block, weight)| {
            for at in 0..row {
                let from = (at % TAPS * inputs + at / TAPS) * outputs + block * LINE;
                let to = weight[at..].iter_mut().step_by(row);
                to.zip(&matrix[from..]).for_each(|(w, m)| *w += m);
            }
        });
    }
}
