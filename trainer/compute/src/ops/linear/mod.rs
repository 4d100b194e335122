//! Rows times a weight matrix, plus a bias.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::matmul::gemm;
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut};
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{TensorView, TensorViewMut};

/// `y = x · Wᵀ + b`.
///
/// # Shapes
/// `x` [rows, inputs], `W` [outputs, inputs], `b` [outputs], `y` [rows, outputs].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    inputs: usize,
    layout: WeightLayout,
}

/// How a weight lies in the state dict.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WeightLayout {
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
            layout: WeightLayout::OutputsFirst,
        }
    }

    /// A layer without bias over a weight [inputs, outputs].
    pub fn new_projection(weight: Weight, inputs: usize) -> Self {
        Self {
            weight,
            bias: None,
            inputs,
            layout: WeightLayout::InputsFirst,
        }
    }

    /// Declares `<name>.weight` and `<name>.bias`.
    pub fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        (inputs, outputs): (usize, usize),
        (weight, bias): (ParamInit, ParamInit),
    ) -> Self {
        let weight = layout.register_weight(&format!("{name}.weight"), &[outputs, inputs], weight);
        let bias = layout.register_weight(&format!("{name}.bias"), &[outputs], bias);
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
    pub fn forward(
        &self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        onto: Accumulate,
    ) {
        match y {
            TensorViewMut::Host(y) => {
                self.forward_host(values.expect_host(), x.expect_host(), y, onto)
            }
            TensorViewMut::Device(mut y) => {
                let bias = self
                    .bias
                    .as_ref()
                    .map(|bias| bias.slice_of(values).expect_device());
                gpu::forward(
                    self.device_matrix(values),
                    bias,
                    x.expect_device(),
                    &mut y,
                    onto,
                );
            }
        }
    }

    fn forward_host(&self, values: &[f32], x: &[f32], y: &mut [f32], onto: Accumulate) {
        let onto = match &self.bias {
            Some(bias) => {
                add_bias(bias.slice_of(values), y, onto);
                Accumulate::Yes
            }
            None => onto,
        };

        let pair = (
            MatrixView::new(x, self.inputs),
            self.weight_matrix(values).transposed(),
        );

        let precision = self.weight.precision();
        gemm(
            precision,
            MatrixViewMut::new(y, self.outputs()),
            onto,
            1.0,
            pair,
            GemmThreads::All,
        );
    }

    /// Adds to the gradients of the weights; writes `dx = dy · W`, or adds to it.
    pub fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        x: TensorView<'_>,
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        onto: Accumulate,
    ) {
        self.backward_weights(gradients, x, dy);
        match dx {
            TensorViewMut::Host(dx) => {
                self.backward_input(values.expect_host(), dy.expect_host(), dx, onto)
            }
            TensorViewMut::Device(mut dx) => {
                gpu::backward_input(
                    self.device_matrix(values),
                    dy.expect_device(),
                    &mut dx,
                    onto,
                );
            }
        }
    }

    fn backward_input(&self, values: &[f32], dy: &[f32], dx: &mut [f32], onto: Accumulate) {
        let pair = (
            MatrixView::new(dy, self.outputs()),
            self.weight_matrix(values),
        );
        let precision = self.weight.precision();
        gemm(
            precision,
            MatrixViewMut::new(dx, self.inputs),
            onto,
            1.0,
            pair,
            GemmThreads::All,
        );
    }

    /// Adds to the gradients of the weights alone: of the first layer, whose input needs none.
    pub fn backward_weights(
        &self,
        gradients: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
    ) {
        match gradients.reborrow() {
            TensorViewMut::Host(gradients) => {
                self.backward_host(gradients, x.expect_host(), dy.expect_host())
            }
            gradients => self.backward_device(gradients, x, dy),
        }
    }

    fn backward_device(
        &self,
        mut gradients: TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
    ) {
        let gradient = &mut self.weight.slice_of(gradients.reborrow()).expect_device();
        match self.layout {
            WeightLayout::OutputsFirst => {
                gpu::backward_weight(gradient, self.inputs, x.expect_device(), dy.expect_device());
            }
            WeightLayout::InputsFirst => {
                gpu::backward_weight(
                    gradient,
                    self.outputs(),
                    dy.expect_device(),
                    x.expect_device(),
                );
            }
        }

        if let Some(bias) = &self.bias {
            add_column_sums(dy, bias.slice_of(gradients));
        }
    }

    fn backward_host(&self, gradients: &mut [f32], x: &[f32], dy: &[f32]) {
        let x = MatrixView::new(x, self.inputs);
        let out = MatrixView::new(dy, self.outputs());
        let (pair, cols) = match self.layout {
            WeightLayout::OutputsFirst => ((out.transposed(), x), self.inputs),
            WeightLayout::InputsFirst => ((x.transposed(), out), self.outputs()),
        };

        let target = MatrixViewMut::new(self.weight.slice_of_mut(gradients), cols);
        gemm(
            self.weight.precision(),
            target,
            Accumulate::Yes,
            1.0,
            pair,
            GemmThreads::All,
        );

        if let Some(bias) = &self.bias {
            add_column_sums_host(dy, bias.slice_of_mut(gradients));
        }
    }

    /// `W` on a device.
    fn device_matrix<'a>(&self, values: TensorView<'a>) -> gpu::WeightMatrix<'a> {
        let weight = self.weight.slice_of(values).expect_device();
        match self.layout {
            WeightLayout::OutputsFirst => gpu::WeightMatrix::new(weight, self.inputs),
            WeightLayout::InputsFirst => {
                gpu::WeightMatrix::new(weight, self.outputs()).transposed()
            }
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

fn add_bias(bias: &[f32], y: &mut [f32], onto: Accumulate) {
    y.par_chunks_mut(bias.len())
        .with_min_len(16)
        .for_each(|row| match onto {
            Accumulate::No => row.copy_from_slice(bias),
            Accumulate::Yes => row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
        });
}

/// Adds the sum of every column to `sums`: the gradient of something that was added to all rows.
///
/// # Shapes
/// `rows` [rows, width], `sums` [width].
pub fn add_column_sums(rows: TensorView<'_>, sums: TensorViewMut<'_>) {
    match sums {
        TensorViewMut::Host(sums) => add_column_sums_host(rows.expect_host(), sums),
        TensorViewMut::Device(mut sums) => gpu::add_column_sums(rows.expect_device(), &mut sums),
    }
}

fn add_column_sums_host(rows: &[f32], sums: &mut [f32]) {
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
