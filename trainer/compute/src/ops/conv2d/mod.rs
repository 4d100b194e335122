//! Convolution of 3 × 3 with zero padding over channels-last images, by im2col: the window of each output
//! pixel is laid out as one row, and the rest is a matrix product. A convolution of 1 × 1 is a linear layer.

mod cpu;
mod gpu;

use cnclip_crds::stage::Precision;
use cpu::ConvThreadScratch;
pub use gpu::MAX_IM2COL_LEN as MAX_DEVICE_IM2COL_LEN;

use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut, panic_mixed_memories};

/// Weights of one input channel for one output channel.
const KERNEL_TAPS: usize = 9;

/// A convolution without bias.
///
/// # Shapes
/// `x` `[batch, side, side, inputs]`, `y` `[batch, ⌈side / stride⌉, ⌈side / stride⌉, outputs]`, and the
/// weight as the reference has it, `[outputs, inputs, 3, 3]`.
///
/// ```
/// use cnclip_compute::ops::conv2d::{Conv2d, ConvShape, ConvWorkspace};
/// use cnclip_compute::params::ParamLayout;
///
/// let mut layout = ParamLayout::default();
/// let mut workspace = ConvWorkspace::default();
/// let shape = ConvShape { inputs: 1, outputs: 1, side: 2, stride: 1 };
/// let conv = Conv2d::declare_params(&mut layout, "conv", shape, &mut workspace);
/// let values = vec![1.0; 9];
///
/// let x = vec![1.0, 2.0, 3.0, 4.0];
/// let mut y = vec![0.0; 4];
/// conv.forward((&values).into(), (&x).into(), (&mut y).into(), &mut workspace);
/// assert_eq!(y, [10.0; 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    geometry: ConvGeometry,
    outputs: usize,
}

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Side of an input image.
    pub side: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
}

/// Square images, and the windows that a convolution takes of them.
#[derive(Clone, Copy, Debug)]
struct ConvGeometry {
    side: usize,
    channels: usize,
    stride: usize,
    precision: Precision,
}

impl ConvGeometry {
    /// Side of an output image.
    fn output_side(&self) -> usize {
        self.side.div_ceil(self.stride)
    }

    /// The same windows of images with other channels.
    fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Numbers of a window.
    fn patch_len(&self) -> usize {
        KERNEL_TAPS * self.channels
    }

    /// Output pixels of a batch of images.
    fn count_output_pixels(&self, x_len: usize) -> usize {
        x_len / (self.side * self.side * self.channels) * self.output_side().pow(2)
    }
}

/// Memory that all convolutions share: it holds nothing between calls.
#[derive(Debug)]
pub struct ConvWorkspace {
    /// The weight as a matrix.
    weight_matrix: Tensor,
    /// Windows that a device lays out at a time.
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
    /// Declares `<name>.weight`, and grows the workspace to what this convolution needs.
    pub fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        shape: ConvShape,
        workspace: &mut ConvWorkspace,
    ) -> Self {
        let ConvShape {
            inputs,
            outputs,
            side,
            stride,
        } = shape;

        let init = ParamInit::uniform_fan_in(KERNEL_TAPS * inputs);
        let weight =
            layout.register_weight(&format!("{name}.weight"), &[outputs, inputs, 3, 3], init);

        let convolution = Self {
            weight,
            geometry: ConvGeometry {
                side,
                channels: inputs,
                stride,
                precision: layout.precision(),
            },
            outputs,
        };

        workspace.reserve_for(&convolution, layout.memory());
        convolution
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Writes `y`.
    pub fn forward(
        &self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        workspace: &mut ConvWorkspace,
    ) {
        let ConvWorkspace {
            weight_matrix,
            im2col_rows,
            thread_scratch,
        } = workspace;

        match (
            self.weight.slice_of(values),
            x,
            y,
            weight_matrix,
            im2col_rows,
        ) {
            (
                TensorView::Host(weight),
                TensorView::Host(x),
                TensorViewMut::Host(y),
                Tensor::Host(matrix),
                _,
            ) => {
                self.forward_host(weight, x, y, matrix, thread_scratch);
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
        workspace: &mut ConvWorkspace,
    ) {
        let ConvWorkspace {
            im2col_rows,
            thread_scratch,
            ..
        } = workspace;

        let gradient = self.weight.slice_of(gradients.reborrow());
        match (gradient, x, dy, im2col_rows) {
            (TensorViewMut::Host(gradient), TensorView::Host(x), TensorView::Host(dy), _) => {
                self.backward_weights_host(gradient, x, dy, thread_scratch);
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

    /// Writes `dx`, for a stride of 1: a convolution of `dy` with the flipped weight.
    pub fn backward_input(
        &self,
        values: TensorView<'_>,
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        workspace: &mut ConvWorkspace,
    ) {
        let ConvWorkspace {
            weight_matrix,
            im2col_rows,
            thread_scratch,
        } = workspace;

        assert_eq!(
            self.geometry.stride, 1,
            "the gradient of the input is there for a stride of 1 only"
        );

        match (
            self.weight.slice_of(values),
            dy,
            dx,
            weight_matrix,
            im2col_rows,
        ) {
            (
                TensorView::Host(weight),
                TensorView::Host(dy),
                TensorViewMut::Host(dx),
                Tensor::Host(matrix),
                _,
            ) => {
                self.backward_input_host(weight, dy, dx, matrix, thread_scratch);
            }
            (
                TensorView::Device(weight),
                TensorView::Device(dy),
                TensorViewMut::Device(dx),
                Tensor::Device(flipped),
                Tensor::Device(rows),
            ) => gpu::backward_input(&self.geometry, weight, dy, dx, flipped, rows),
            _ => panic_mixed_memories(),
        }
    }
}
