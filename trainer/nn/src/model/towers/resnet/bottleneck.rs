//! A bottleneck: a residual block of a 1 × 1, a 3 × 3 and a 1 × 1 convolution.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::PostActivation;
use cnclip_compute::ops::residual;
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView};

use super::conv_batch_norm::{Conv3x3Shape, ConvBatchNorm, ResnetWorkspace, UnitNames, UnitShape};
use super::{ResnetForwardContext, ResnetScratch};
use crate::model::towers::{FlatParams, InputGradient};

/// Channels that come out, in units of the inner ones.
const EXPANSION: usize = 4;

/// The sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BottleneckShape {
    pub(super) batch: usize,
    /// Side of the images that go in.
    pub(super) side: usize,
    /// Channels that go in.
    pub(super) inputs: usize,
    /// Channels inside.
    pub(super) planes: usize,
    /// 2 where the block halves the side.
    pub(super) stride: usize,
}

impl BottleneckShape {
    /// Channels that come out.
    pub(super) fn output_channels(&self) -> usize {
        EXPANSION * self.planes
    }

    /// Side of the images that come out.
    pub(super) fn output_side(&self) -> usize {
        self.side / self.stride
    }

    /// Positions of all images that go in.
    fn positions(&self) -> usize {
        self.batch * self.side * self.side
    }

    /// Positions of all images that come out.
    fn output_positions(&self) -> usize {
        self.batch * self.output_side().pow(2)
    }

    /// Whether the shape changes, so that the input cannot be added as it is.
    fn has_projection(&self) -> bool {
        self.stride > 1 || self.inputs != self.output_channels()
    }
}

/// `y = relu(unit_3(pool(unit_2(unit_1(x)))) + shortcut(pool(x)))`.
///
/// The pools halve the side where ResNets otherwise have convolutions of stride 2.
///
/// # Shapes
/// `x` `[batch, side, side, inputs]`, `y` `[batch, side / stride, side / stride, 4 · planes]`.
#[derive(Debug)]
pub(super) struct Bottleneck {
    shape: BottleneckShape,
    convolutions: [ConvBatchNorm; 3],
    /// Where channels or side change, a projection brings the input into the output's shape.
    shortcut: Option<ConvBatchNorm>,
    cache: BottleneckCache,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
struct BottleneckCache {
    first: Tensor,
    second: Tensor,
    /// The second, and the input, with half the side.
    pooled: Tensor,
    pooled_input: Tensor,
    output: Tensor,
}

impl BottleneckCache {
    fn new(memory: &Memory, shape: &BottleneckShape) -> Self {
        let positions = shape.positions();
        let output_positions = shape.output_positions();
        // Nothing is pooled elsewhere, so no memory is reserved.
        let pooled = if shape.stride > 1 {
            output_positions
        } else {
            0
        };

        Self {
            first: memory.alloc_activations(positions * shape.planes),
            second: memory.alloc_activations(positions * shape.planes),
            pooled: memory.alloc_activations(pooled * shape.planes),
            pooled_input: memory.alloc_activations(pooled * shape.inputs),
            output: memory.alloc_activations(output_positions * shape.output_channels()),
        }
    }
}

impl Bottleneck {
    /// Declares the block's weights under `name`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        shape: BottleneckShape,
        workspace: &mut ResnetWorkspace,
    ) -> Self {
        let unit_names = |convolution: &str, norm: &str| UnitNames {
            convolution: format!("{name}.{convolution}"),
            norm: format!("{name}.{norm}"),
        };

        let BottleneckShape { inputs, planes, .. } = shape;
        let first = ConvBatchNorm::declare_conv1x1(
            layout,
            &unit_names("conv1", "bn1"),
            UnitShape {
                inputs,
                outputs: planes,
                positions: shape.positions(),
            },
            ParamInit::Ones,
            workspace,
        );

        let second = ConvBatchNorm::declare_conv3x3(
            layout,
            &unit_names("conv2", "bn2"),
            Conv3x3Shape {
                inputs: planes,
                outputs: planes,
                side: shape.side,
                stride: 1,
                batch: shape.batch,
            },
            workspace,
        );

        let mut declare_last = |names: UnitNames, inputs, norm_init| {
            let unit = UnitShape {
                inputs,
                outputs: shape.output_channels(),
                positions: shape.output_positions(),
            };

            ConvBatchNorm::declare_conv1x1(layout, &names, unit, norm_init, workspace)
        };

        // A last norm of zero makes the block the identity at first, which trains more stably.
        let third = declare_last(unit_names("conv3", "bn3"), planes, ParamInit::Zeros);
        let shortcut_names = unit_names("downsample.0", "downsample.1");
        let shortcut = shape
            .has_projection()
            .then(|| declare_last(shortcut_names, inputs, ParamInit::Ones));

        Self {
            shape,
            convolutions: [first, second, third],
            shortcut,
            cache: BottleneckCache::new(layout.memory(), &shape),
        }
    }

    /// The output of the last forward pass, for a number of images.
    pub(super) fn output_view(&self, batch: usize) -> TensorView<'_> {
        self.cache.output.first_n(self.output_len(batch))
    }

    fn output_len(&self, batch: usize) -> usize {
        batch * self.shape.output_side().pow(2) * self.shape.output_channels()
    }

    fn batch_of(&self, x_len: usize) -> usize {
        let BottleneckShape { side, inputs, .. } = self.shape;
        x_len / (side * side * inputs)
    }

    /// Computes `y`.
    pub(super) fn forward(&mut self, context: &mut ResnetForwardContext<'_>, x: TensorView<'_>) {
        let BottleneckShape {
            inputs,
            planes,
            stride,
            ..
        } = self.shape;

        let input_pool = self.average_pool(inputs);
        let inner_pool = self.average_pool(planes);
        let output_len = self.output_len(self.batch_of(x.len()));
        let inner_len = x.len() / inputs * planes;
        let BottleneckCache {
            first,
            second,
            pooled,
            pooled_input,
            output,
        } = &mut self.cache;

        let [unit_1, unit_2, unit_3] = &mut self.convolutions;
        unit_1.forward(
            context,
            x,
            first.first_n_mut(inner_len),
            Accumulate::No,
            PostActivation::Relu,
        );

        unit_2.forward(
            context,
            first.first_n(inner_len),
            second.first_n_mut(inner_len),
            Accumulate::No,
            PostActivation::Relu,
        );

        // CLIP pools before the last convolution and before the shortcut, which aliases less than a stride.
        let mut shortcut_input = x;
        let mut inner = second.first_n(inner_len);
        if stride > 1 {
            input_pool.forward(x, pooled_input.first_n_mut(x.len() / 4));
            inner_pool.forward(inner, pooled.first_n_mut(inner_len / 4));
            shortcut_input = pooled_input.first_n(x.len() / 4);
            inner = pooled.first_n(inner_len / 4);
        }

        // The shortcut first, so that the last unit adds to it and the ReLU sees the sum.
        let mut output = output.first_n_mut(output_len);
        match &mut self.shortcut {
            Some(unit) => unit.forward(
                context,
                shortcut_input,
                output.reborrow(),
                Accumulate::No,
                PostActivation::Identity,
            ),
            None => output.copy_from(shortcut_input),
        }

        unit_3.forward(
            context,
            inner,
            output,
            Accumulate::Yes,
            PostActivation::Relu,
        );
    }

    /// Adds to the gradients of the weights; `scratch.gradient` holds the gradient of `y`, and then that
    /// of `x`.
    pub(super) fn backward(
        &self,
        params: &mut FlatParams<'_>,
        x: TensorView<'_>,
        scratch: &mut ResnetScratch,
    ) {
        let output = self.output_view(self.batch_of(x.len()));
        // Both summands of the output get the same gradient, each in memory of its own.
        residual::relu_backward_split(
            output,
            scratch.gradient.first_n_mut(output.len()),
            scratch.branch.first_n_mut(output.len()),
        );

        // The units first, because they overwrite `spare`, and the shortcut adds to it.
        self.backward_units(params, x, scratch);
        self.backward_shortcut(params, x, scratch);
        let ResnetScratch {
            gradient, spare, ..
        } = scratch;

        std::mem::swap(gradient, spare);
    }

    /// From the gradient of the units' output in `scratch.branch` to that of `x` in `scratch.spare`.
    fn backward_units(
        &self,
        params: &mut FlatParams<'_>,
        x: TensorView<'_>,
        scratch: &mut ResnetScratch,
    ) {
        let BottleneckShape {
            inputs,
            planes,
            stride,
            ..
        } = self.shape;

        let ResnetScratch {
            workspace,
            spare,
            branch,
            ..
        } = scratch;

        let cache = &self.cache;
        let [unit_1, unit_2, unit_3] = &self.convolutions;
        let output_len = self.output_len(self.batch_of(x.len()));
        let inner_len = x.len() / inputs * planes;
        let pooled_len = inner_len / (stride * stride);
        let third_input = if stride > 1 {
            &cache.pooled
        } else {
            &cache.second
        };

        unit_3.backward(
            params,
            workspace,
            third_input.first_n(pooled_len),
            branch.first_n_mut(output_len),
            PostActivation::Identity,
            Some(InputGradient::replace(spare.first_n_mut(pooled_len))),
        );

        // A pool cannot work in place, so the two arrays swap: `spare` holds the gradient either way.
        if stride > 1 {
            self.average_pool(planes).backward(
                spare.first_n(pooled_len),
                branch.first_n_mut(inner_len),
                Accumulate::No,
            );

            std::mem::swap(spare, branch);
        }

        unit_2.backward(
            params,
            workspace,
            cache.first.first_n(inner_len),
            spare.first_n_mut(inner_len),
            PostActivation::Relu,
            Some(InputGradient::replace(branch.first_n_mut(inner_len))),
        );

        unit_1.backward(
            params,
            workspace,
            x,
            branch.first_n_mut(inner_len),
            PostActivation::Relu,
            Some(InputGradient::replace(spare.first_n_mut(x.len()))),
        );
    }

    /// Adds the shortcut's part, from the gradient of its output in `scratch.gradient`, to the gradient of
    /// `x` in `scratch.spare`.
    fn backward_shortcut(
        &self,
        params: &mut FlatParams<'_>,
        x: TensorView<'_>,
        scratch: &mut ResnetScratch,
    ) {
        let ResnetScratch {
            workspace,
            gradient,
            spare,
            branch,
        } = scratch;

        let output_len = self.output_len(self.batch_of(x.len()));
        let dout = gradient.first_n_mut(output_len);
        let dx = spare.first_n_mut(x.len());
        match &self.shortcut {
            None => residual::add_residual(dout.as_view(), dx),
            Some(unit) if self.shape.stride == 1 => unit.backward(
                params,
                workspace,
                x,
                dout,
                PostActivation::Identity,
                Some(InputGradient::add_to(dx)),
            ),
            Some(unit) => {
                let mut dpooled = branch.first_n_mut(x.len() / 4);
                unit.backward(
                    params,
                    workspace,
                    self.cache.pooled_input.first_n(x.len() / 4),
                    dout,
                    PostActivation::Identity,
                    Some(InputGradient::replace(dpooled.reborrow())),
                );

                self.average_pool(self.shape.inputs).backward(
                    dpooled.as_view(),
                    dx,
                    Accumulate::Yes,
                );
            }
        }
    }

    fn average_pool(&self, channels: usize) -> AveragePool {
        AveragePool {
            side: self.shape.side,
            channels,
        }
    }
}
