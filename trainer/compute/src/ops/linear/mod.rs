//! The linear layer: rows times a weight matrix, plus a bias.

mod cpu;
pub(in crate::ops) mod gpu;

use crate::gemm::Accumulate;
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{TensorView, TensorViewMut};

/// `y = x · Wᵀ + b`.
///
/// # Shapes
/// `x` `[rows, inputs]`, `W` `[outputs, inputs]`, `b` `[outputs]`, `y` `[rows, outputs]`.
///
/// ```
/// use cnclip_compute::gemm::Accumulate;
/// use cnclip_compute::ops::linear::Linear;
/// use cnclip_compute::params::{ParamInit, ParamLayout};
///
/// let mut layout = ParamLayout::default();
/// let linear =
///     Linear::declare_params(&mut layout, "fc", 2, 1, ParamInit::Ones, ParamInit::Constant(0.5));
/// let mut params = layout.allocate_params();
/// params.init_values(0);
///
/// let x = vec![1.0, 2.0];
/// let mut y = vec![0.0];
/// linear.forward(params.values.view(), (&x).into(), (&mut y).into(), Accumulate::No);
/// assert_eq!(y, [3.5]);
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    inputs: usize,
    layout: WeightLayout,
}

/// The order of a weight's dimensions in the state dict.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WeightLayout {
    /// [outputs, inputs]: PyTorch's `Linear`.
    OutputsFirst,
    /// [inputs, outputs]: the projections that both towers end in.
    InputsFirst,
}

impl Linear {
    /// A layer over a weight `[outputs, inputs]` that is declared already.
    pub fn new(weight: Weight, bias: Option<Weight>, inputs: usize) -> Self {
        Self {
            weight,
            bias,
            inputs,
            layout: WeightLayout::OutputsFirst,
        }
    }

    /// A layer without bias over a weight `[inputs, outputs]`.
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
        inputs: usize,
        outputs: usize,
        weight_init: ParamInit,
        bias_init: ParamInit,
    ) -> Self {
        let shape = [outputs, inputs];
        let weight = layout.register_weight(&format!("{name}.weight"), &shape, weight_init);
        let bias = layout.register_weight(&format!("{name}.bias"), &[outputs], bias_init);
        Self::new(weight, Some(bias), inputs)
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    /// Writes `y`, or adds to it: the latter is a residual connection.
    pub fn forward(
        &self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        accumulate: Accumulate,
    ) {
        match y {
            TensorViewMut::Host(y) => {
                self.forward_host(values.expect_host(), x.expect_host(), y, accumulate)
            }
            TensorViewMut::Device(mut y) => {
                let bias = self
                    .bias
                    .as_ref()
                    .map(|bias| bias.slice_of(values).expect_device());
                let weight = self.device_matrix(values);
                gpu::forward(weight, bias, x.expect_device(), &mut y, accumulate);
            }
        }
    }

    /// Adds to the gradients of weight and bias; writes `dx = dy · W`, or adds to it.
    pub fn backward(
        &self,
        values: TensorView<'_>,
        gradients: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        accumulate: Accumulate,
    ) {
        self.backward_weights(gradients, x, dy);
        match dx {
            TensorViewMut::Host(dx) => {
                self.backward_input_host(values.expect_host(), dy.expect_host(), dx, accumulate)
            }
            TensorViewMut::Device(mut dx) => {
                let weight = self.device_matrix(values);
                gpu::backward_input(weight, dy.expect_device(), &mut dx, accumulate);
            }
        }
    }

    /// Adds to the gradients of weight and bias alone: of the first layer, whose input needs none.
    pub fn backward_weights(
        &self,
        gradients: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
    ) {
        match gradients.reborrow() {
            TensorViewMut::Host(gradients) => {
                self.backward_weights_host(gradients, x.expect_host(), dy.expect_host())
            }
            gradients => self.backward_weights_device(gradients, x, dy),
        }
    }

    fn backward_weights_device(
        &self,
        mut gradients: TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
    ) {
        let gradient = &mut self.weight.slice_of(gradients.reborrow()).expect_device();
        let x = x.expect_device();
        let dy_on_device = dy.expect_device();
        match self.layout {
            WeightLayout::OutputsFirst => {
                gpu::backward_weight(gradient, self.inputs, x, dy_on_device)
            }
            // The gradient of the transposed weight is the same product with its factors exchanged.
            WeightLayout::InputsFirst => {
                gpu::backward_weight(gradient, self.outputs(), dy_on_device, x)
            }
        }

        if let Some(bias) = &self.bias {
            add_column_sums(dy, bias.slice_of(gradients));
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
}

/// Adds the sum of every column to `sums`: the gradient of something that was added to all rows.
///
/// # Shapes
/// `rows` `[rows, width]`, `sums` `[width]`.
///
/// # Guarantees
/// The same numbers give the same sums, whatever the number of threads or blocks.
///
/// ```
/// use cnclip_compute::ops::linear::add_column_sums;
///
/// let rows = vec![1.0, 2.0, 3.0, 4.0];
/// let mut sums = vec![10.0, 20.0];
/// add_column_sums((&rows).into(), (&mut sums).into());
/// assert_eq!(sums, [14.0, 26.0]);
/// ```
pub fn add_column_sums(rows: TensorView<'_>, sums: TensorViewMut<'_>) {
    match sums {
        TensorViewMut::Host(sums) => cpu::add_column_sums(rows.expect_host(), sums),
        TensorViewMut::Device(mut sums) => gpu::add_column_sums(rows.expect_device(), &mut sums),
    }
}
