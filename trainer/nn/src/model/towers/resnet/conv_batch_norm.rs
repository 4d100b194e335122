//! A convolution and the batch normalisation behind it: what the whole tower is made of.

use std::sync::Arc;

use cnclip_compute::collective::Collective;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::batch_norm::{
    BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
};
use cnclip_compute::ops::conv2d::{Conv2d, ConvShape, ConvWorkspace};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

use super::ResnetForwardContext;
use crate::model::towers::{FlatParams, InputGradient};

/// `y = norm(convolution(x))`, followed by a ReLU where the tower has one.
///
/// # Shapes
/// `x` `[batch, positions, inputs]`, `y` `[batch, positions, outputs]`.
#[derive(Debug)]
pub(super) struct ConvBatchNorm {
    convolution: ConvKernel,
    norm: BatchNorm,
    /// The output of the convolution, kept for the backward pass.
    convolved: Tensor,
    moments: BatchNormMoments,
}

/// The two sizes of convolution.
#[derive(Debug)]
enum ConvKernel {
    /// 1 × 1: in channels-last order a matrix product over all positions.
    Kernel1x1(Linear),
    /// 3 × 3.
    Kernel3x3(Conv2d),
}

/// Names of the layers in the state dict.
#[derive(Clone, Debug)]
pub(super) struct UnitNames {
    pub(super) convolution: String,
    pub(super) norm: String,
}

/// Sizes of a unit's input and output.
#[derive(Clone, Copy)]
pub(super) struct UnitShape {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Positions of the output in all images of a batch.
    pub(super) positions: usize,
}

/// Sizes of a convolution of 3 × 3.
#[derive(Clone, Copy)]
pub(super) struct Conv3x3Shape {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Side of the images that go in.
    pub(super) side: usize,
    pub(super) stride: usize,
    pub(super) batch: usize,
}

/// Memory that units use in turn.
#[derive(Debug, Default)]
pub(super) struct ResnetWorkspace {
    convolution: ConvWorkspace,
    batch_norm: BatchNormWorkspace,
}

impl ResnetWorkspace {
    /// From now on batch statistics are those of all ranks' batches.
    pub(super) fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.batch_norm.sync_across_ranks(ranks);
    }
}

impl ConvBatchNorm {
    /// Declares a convolution of 1 × 1.
    pub(super) fn declare_conv1x1(
        layout: &mut ParamLayout,
        names: &UnitNames,
        shape: UnitShape,
        norm_init: ParamInit,
        workspace: &mut ResnetWorkspace,
    ) -> Self {
        let UnitShape {
            inputs, outputs, ..
        } = shape;

        let weight = layout.register_weight(
            &format!("{}.weight", names.convolution),
            &[outputs, inputs, 1, 1],
            ParamInit::uniform_fan_in(inputs),
        );

        let convolution = ConvKernel::Kernel1x1(Linear::new(weight, None, inputs));
        let norm = BatchNorm::declare_params(
            layout,
            &names.norm,
            outputs,
            norm_init,
            &mut workspace.batch_norm,
        );

        Self::new(layout, convolution, norm, shape)
    }

    /// Declares a convolution of 3 × 3.
    pub(super) fn declare_conv3x3(
        layout: &mut ParamLayout,
        names: &UnitNames,
        shape: Conv3x3Shape,
        workspace: &mut ResnetWorkspace,
    ) -> Self {
        let Conv3x3Shape {
            inputs,
            outputs,
            side,
            stride,
            batch,
        } = shape;

        let convolution = Conv2d::declare_params(
            layout,
            &names.convolution,
            ConvShape {
                inputs,
                outputs,
                side,
                stride,
            },
            &mut workspace.convolution,
        );

        let norm = BatchNorm::declare_params(
            layout,
            &names.norm,
            outputs,
            ParamInit::Ones,
            &mut workspace.batch_norm,
        );

        let shape = UnitShape {
            inputs,
            outputs,
            positions: batch * side.div_ceil(stride).pow(2),
        };

        Self::new(layout, ConvKernel::Kernel3x3(convolution), norm, shape)
    }

    fn new(
        layout: &ParamLayout,
        convolution: ConvKernel,
        norm: BatchNorm,
        shape: UnitShape,
    ) -> Self {
        let memory = layout.memory();
        Self {
            convolution,
            norm,
            convolved: memory.alloc_activations(shape.positions * shape.outputs),
            moments: BatchNormMoments::new(memory, shape.outputs),
        }
    }

    /// Writes `y`, or adds to it, before the activation function.
    pub(super) fn forward(
        &mut self,
        context: &mut ResnetForwardContext<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        accumulate: Accumulate,
        activation: PostActivation,
    ) {
        let ResnetForwardContext {
            values,
            buffers,
            training,
            workspace,
        } = context;

        let convolved = self.convolved.first_n_mut(y.len());
        match &self.convolution {
            ConvKernel::Kernel1x1(linear) => {
                linear.forward(*values, x, convolved, Accumulate::No);
            }
            ConvKernel::Kernel3x3(conv) => {
                conv.forward(*values, x, convolved, &mut workspace.convolution);
            }
        }

        // In evaluation by the running statistics: the features of an image must not depend on the other images
        // of its batch.
        let convolved = self.convolved.first_n(y.len());
        if *training {
            self.norm.compute_batch_stats(
                *values,
                buffers,
                convolved,
                &mut self.moments,
                &mut workspace.batch_norm,
            );
        } else {
            self.norm
                .load_running_stats(*values, buffers.as_view(), &mut self.moments);
        }

        self.norm
            .apply_normalization(&self.moments, convolved, y, accumulate, activation);
    }

    /// Adds to the gradients of the weights; writes `dx` or adds to it, where one is wanted. `dy` is
    /// overwritten with the gradient of the convolution's output.
    pub(super) fn backward(
        &self,
        params: &mut FlatParams<'_>,
        workspace: &mut ResnetWorkspace,
        x: TensorView<'_>,
        mut dy: TensorViewMut<'_>,
        activation: PostActivation,
        dx: Option<InputGradient<'_>>,
    ) {
        let ResnetWorkspace {
            convolution: conv_workspace,
            batch_norm,
        } = workspace;

        // The activation function and the norm first, which were applied last. Their gradient overwrites `dy`:
        // it is as large, and `dy` is of no more use.
        let convolved = self.convolved.first_n(dy.len());
        self.norm.backward(
            &mut params.gradients,
            convolved,
            &self.moments,
            batch_norm,
            dy.reborrow(),
            activation,
        );

        let dy = dy.as_view();
        match &self.convolution {
            ConvKernel::Kernel1x1(linear) => backward_linear(linear, params, x, dy, dx),
            ConvKernel::Kernel3x3(conv) => {
                // No unit with a 3 × 3 convolution adds to another branch's gradient, so its input gradient
                // always overwrites.
                conv.backward_weights(&mut params.gradients, x, dy, conv_workspace);
                if let Some(dx) = dx {
                    conv.backward_input(params.values, dy, dx.values, conv_workspace);
                }
            }
        }
    }
}

fn backward_linear(
    linear: &Linear,
    params: &mut FlatParams<'_>,
    x: TensorView<'_>,
    dy: TensorView<'_>,
    dx: Option<InputGradient<'_>>,
) {
    match dx {
        Some(dx) => linear.backward(
            params.values,
            &mut params.gradients,
            x,
            dy,
            dx.values,
            dx.accumulate,
        ),
        None => linear.backward_weights(&mut params.gradients, x, dy),
    }
}
