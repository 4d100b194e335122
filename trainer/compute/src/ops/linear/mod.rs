//! Rows times a weight matrix, plus a bias.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::multiply::multiply;
use crate::gemm::{Matrix, MatrixMut, Onto, Threads};
use crate::params::{Init, Layout, Weight};
use crate::tensor::{View, ViewMut};

/// `y = x · Wᵀ + b`.
///
/// # Shapes
/// `x` [rows, inputs], `W` [outputs, inputs], `b` [outputs], `y` [rows, outputs].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    inputs: usize,
    stored: Stored,
}

/// How a weight lies in the state dict.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    /// [outputs, inputs]: layers.
    OutputsFirst,
    /// [inputs, outputs]: the projections that both towers end in.
    InputsFirst,
}

impl Linear {
    /// A layer over a weight [outputs, inputs] that is declared already.
    pub fn new(weight: Weight, bias: Option<Weight>, inputs: usize) -> Self {
        Self {
            weight,
            bias,
            inputs,
            stored: Stored::OutputsFirst,
        }
    }

    /// A layer without bias over a weight [inputs, outputs].
    pub fn projection(weight: Weight, inputs: usize) -> Self {
        Self {
            weight,
            bias: None,
            inputs,
            stored: Stored::InputsFirst,
        }
    }

    /// Declares `<name>.weight` and `<name>.bias`.
    pub fn declare(
        layout: &mut Layout,
        name: &str,
        (inputs, outputs): (usize, usize),
        (weight, bias): (Init, Init),
    ) -> Self {
        let weight = layout.weight(&format!("{name}.weight"), &[outputs, inputs], weight);
        let bias = layout.weight(&format!("{name}.bias"), &[outputs], bias);
        Self::new(weight, Some(bias), inputs)
    }

    /// Length of a row that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of a row that comes out.
    pub fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    /// Writes `y`, or adds to it: the latter is a residual connection.
    pub fn forward(&self, values: View<'_>, x: View<'_>, y: ViewMut<'_>, onto: Onto) {
        match y {
            ViewMut::Host(y) => self.forward_host(values.host(), x.host(), y, onto),
            ViewMut::Device(mut y) => {
                let bias = self.bias.as_ref().map(|bias| bias.of(values).device());
                gpu::forward(self.on_device(values), bias, x.device(), &mut y, onto);
            }
        }
    }

    fn forward_host(&self, values: &[f32], x: &[f32], y: &mut [f32], onto: Onto) {
        let onto = match &self.bias {
            Some(bias) => {
                add_bias(bias.of(values), y, onto);
                Onto::Add
            }
            None => onto,
        };

        let pair = (
            Matrix::new(x, self.inputs),
            self.matrix(values).transposed(),
        );

        let precision = self.weight.precision();
        multiply(
            precision,
            MatrixMut::new(y, self.outputs()),
            onto,
            1.0,
            pair,
            Threads::All,
        );
    }

    /// Adds to the gradients of the weights; writes `dx = dy · W`, or adds to it.
    pub fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        x: View<'_>,
        dy: View<'_>,
        dx: ViewMut<'_>,
        onto: Onto,
    ) {
        self.backward_weights(gradients, x, dy);
        match dx {
            ViewMut::Host(dx) => self.backward_input(values.host(), dy.host(), dx, onto),
            ViewMut::Device(mut dx) => {
                gpu::backward_input(self.on_device(values), dy.device(), &mut dx, onto);
            }
        }
    }

    fn backward_input(&self, values: &[f32], dy: &[f32], dx: &mut [f32], onto: Onto) {
        let pair = (Matrix::new(dy, self.outputs()), self.matrix(values));
        let precision = self.weight.precision();
        multiply(
            precision,
            MatrixMut::new(dx, self.inputs),
            onto,
            1.0,
            pair,
            Threads::All,
        );
    }

    /// Adds to the gradients of the weights alone: of the first layer, whose input needs none.
    pub fn backward_weights(&self, gradients: &mut ViewMut<'_>, x: View<'_>, dy: View<'_>) {
        match gradients.reborrow() {
            ViewMut::Host(gradients) => self.backward_host(gradients, x.host(), dy.host()),
            gradients => self.backward_device(gradients, x, dy),
        }
    }

    fn backward_device(&self, mut gradients: ViewMut<'_>, x: View<'_>, dy: View<'_>) {
        let gradient = &mut self.weight.of(gradients.reborrow()).device();
        match self.stored {
            Stored::OutputsFirst => {
                gpu::backward_weight(gradient, self.inputs, x.device(), dy.device());
            }
            Stored::InputsFirst => {
                gpu::backward_weight(gradient, self.outputs(), dy.device(), x.device());
            }
        }

        if let Some(bias) = &self.bias {
            add_column_sums(dy, bias.of(gradients));
        }
    }

    fn backward_host(&self, gradients: &mut [f32], x: &[f32], dy: &[f32]) {
        let x = Matrix::new(x, self.inputs);
        let out = Matrix::new(dy, self.outputs());
        let (pair, cols) = match self.stored {
            Stored::OutputsFirst => ((out.transposed(), x), self.inputs),
            Stored::InputsFirst => ((x.transposed(), out), self.outputs()),
        };

        let target = MatrixMut::new(self.weight.of_mut(gradients), cols);
        multiply(
            self.weight.precision(),
            target,
            Onto::Add,
            1.0,
            pair,
            Threads::All,
        );

        if let Some(bias) = &self.bias {
            column_sums(dy, bias.of_mut(gradients));
        }
    }

    /// `W` on a device.
    fn on_device<'a>(&self, values: View<'a>) -> gpu::Matrix<'a> {
        let weight = self.weight.of(values).device();
        match self.stored {
            Stored::OutputsFirst => gpu::Matrix::new(weight, self.inputs),
            Stored::InputsFirst => gpu::Matrix::new(weight, self.outputs()).transposed(),
        }
    }

    /// `W`.
    fn matrix<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        let weight = self.weight.of(values);
        match self.stored {
            Stored::OutputsFirst => Matrix::new(weight, self.inputs),
            Stored::InputsFirst => Matrix::new(weight, self.outputs()).transposed(),
        }
    }
}

fn add_bias(bias: &[f32], y: &mut [f32], onto: Onto) {
    y.par_chunks_mut(bias.len())
        .with_min_len(16)
        .for_each(|row| match onto {
            Onto::Replace => row.copy_from_slice(bias),
            Onto::Add => row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
        });
}

/// Adds the sum of every column to `sums`: the gradient of something that was added to all rows.
///
/// # Shapes
/// `rows` [rows, width], `sums` [width].
pub fn add_column_sums(rows: View<'_>, sums: ViewMut<'_>) {
    match sums {
        ViewMut::Host(sums) => column_sums(rows.host(), sums),
        ViewMut::Device(mut sums) => gpu::add_column_sums(rows.device(), &mut sums),
    }
}

fn column_sums(rows: &[f32], sums: &mut [f32]) {
    /// Columns that one thread sums: two cache lines.
    const COLUMNS: usize = 32;
    let width = sums.len();
    sums.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(chunk, sums)| {
            let start = chunk * COLUMNS;
            for row in rows.chunks_exact(width) {
                let part = &row[start..start + sums.len()];
                sums.iter_mut()
                    .zip(part)
                    .for_each(|(sum, value)| *sum += value);
            }
        });
}
