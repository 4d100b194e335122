//! Convolution of 3 × 3 with a border of zeros, over pictures whose channels are neighbours: the
//! neighbourhood of each place is laid out as one row, and the rest is a matrix product. It knows no
//! convolution of 1 × 1, which is a linear layer.

mod cpu;
pub mod gpu;

use cnclip_crds::stage::Precision;
use cpu::ConvThreadScratch;

use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut, panic_mixed_memories};

/// Weights of one input channel for one output channel.
pub(crate) const KERNEL_TAPS: usize = 9;

/// A convolution without bias.
///
/// # Shapes
/// `x` [batch, side, side, inputs], `y` [batch, ⌈side / stride⌉, ⌈side / stride⌉, outputs], and the
/// weight as the reference has it, [outputs, inputs, 3, 3].
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    geometry: ConvGeometry,
    outputs: usize,
}

/// Square pictures, and the places in them that a convolution looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvGeometry {
    pub(crate) side: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
    precision: Precision,
}

impl ConvGeometry {
    /// Places of a picture along one side.
    pub(crate) fn output_side(&self) -> usize {
        self.side.div_ceil(self.stride)
    }

    /// The same places of pictures with so many channels.
    pub(crate) fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Length of a neighbourhood.
    pub(crate) fn patch_len(&self) -> usize {
        KERNEL_TAPS * self.channels
    }
}

/// Memory that convolutions borrow in turn.
#[derive(Debug)]
pub struct ConvWorkspace {
    /// The weight as a matrix.
    weight_matrix: Tensor,
    /// Neighbourhoods that a device lays out at a time.
    im2col_rows: Tensor,
    thread_scratch: Vec<ConvThreadScratch>,
}

impl Default for ConvWorkspace {
    fn default() -> Self {
        Self {
            weight_matrix: Vec::new().into(),
            im2col_rows: Vec::new().into(),
            thread_scratch: Vec::new(),
        }
    }
}

impl ConvWorkspace {
    /// Grows to what this convolution needs.
    fn reserve_for(&mut self, convolution: &Conv2d, memory: &Memory) {
        let grow = |array: &mut Tensor, length| {
            if array.len() < length {
                *array = memory.alloc_activations(length);
            }
        };

        grow(&mut self.weight_matrix, convolution.weight.len());
        if memory.device().is_some() {
            let row = KERNEL_TAPS * convolution.geometry.channels.max(convolution.outputs);
            grow(&mut self.im2col_rows, gpu::MAX_IM2COL_LEN.max(row));
        } else {
            cpu::reserve_scratch(&mut self.thread_scratch, convolution);
        }
    }
}

impl Conv2d {
    /// Declares `<name>.weight`, over pictures of `side` pixels, and makes room for it.
    pub fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        (inputs, outputs): (usize, usize),
        (side, stride): (usize, usize),
        workspace: &mut ConvWorkspace,
    ) -> Self {
        let name = format!("{name}.weight");
        let shape = [outputs, inputs, 3, 3];
        let weight = layout.register_weight(
            &name,
            &shape,
            ParamInit::uniform_fan_in(KERNEL_TAPS * inputs),
        );
        let precision = layout.precision();
        let grid = ConvGeometry {
            side,
            channels: inputs,
            stride,
            precision,
        };

        let convolution = Self {
            weight,
            geometry: grid,
            outputs,
        };

        workspace.reserve_for(&convolution, layout.memory());
        convolution
    }

    /// Channels that come out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Writes `y`.
    pub fn forward(
        &self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        ConvWorkspace {
            weight_matrix: matrix,
            im2col_rows: rows,
            thread_scratch: parts,
        }: &mut ConvWorkspace,
    ) {
        match (self.weight.slice_of(values), x, y, matrix, rows) {
            (
                TensorView::Host(weight),
                TensorView::Host(x),
                TensorViewMut::Host(y),
                Tensor::Host(matrix),
                _,
            ) => {
                self.forward_host(weight, x, y, (matrix, parts));
            }
            (
                TensorView::Device(weight),
                TensorView::Device(x),
                TensorViewMut::Device(y),
                _,
                Tensor::Device(rows),
            ) => {
                gpu::forward(&self.geometry, weight, x, y, rows);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Adds to the gradient of the weight.
    pub fn backward_weights(
        &self,
        gradients: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        dy: TensorView<'_>,
        ConvWorkspace {
            im2col_rows: rows,
            thread_scratch: parts,
            ..
        }: &mut ConvWorkspace,
    ) {
        match (self.weight.slice_of(gradients.reborrow()), x, dy, rows) {
            (TensorViewMut::Host(gradient), TensorView::Host(x), TensorView::Host(dy), _) => {
                self.backward_weights_host(gradient, x, dy, parts);
            }
            (
                TensorViewMut::Device(gradient),
                TensorView::Device(x),
                TensorView::Device(dy),
                Tensor::Device(rows),
            ) => gpu::backward_weights(&self.geometry, gradient, x, dy, rows),
            _ => panic_mixed_memories(),
        }
    }

    /// Writes `dx`, for a stride of 1: the same convolution of `dy`, with the weight turned around.
    pub fn backward_input(
        &self,
        values: TensorView<'_>,
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        ConvWorkspace {
            weight_matrix: matrix,
            im2col_rows: rows,
            thread_scratch: parts,
        }: &mut ConvWorkspace,
    ) {
        assert_eq!(
            self.geometry.stride, 1,
            "the first convolution's input needs no gradient"
        );

        match (self.weight.slice_of(values), dy, dx, matrix, rows) {
            (
                TensorView::Host(weight),
                TensorView::Host(dy),
                TensorViewMut::Host(dx),
                Tensor::Host(matrix),
                _,
            ) => {
                self.backward_input_host(weight, dy, dx, (matrix, parts));
            }
            (
                TensorView::Device(weight),
                TensorView::Device(dy),
                TensorViewMut::Device(dx),
                Tensor::Device(turned),
                Tensor::Device(rows),
            ) => gpu::backward_input(&self.geometry, weight, dy, dx, (turned, rows)),
            _ => panic_mixed_memories(),
        }
    }
}
