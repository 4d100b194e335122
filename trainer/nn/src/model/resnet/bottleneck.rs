//! A residual block: narrow, look around, widen, and add what came in.

use super::conv_batch_norm::{ConvBatchNorm, ResnetWorkspace};
use super::{ResnetForwardContext, ResnetScratch};
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::PostActivation;
use cnclip_compute::ops::residual;
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// Channels that come out, in units of the inner ones.
pub(super) const EXPANSION: usize = 4;

/// The sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BottleneckShape {
    pub(super) batch: usize,
    /// Side of the pictures that go in.
    pub(super) side: usize,
    pub(super) inputs: usize,
    /// Channels inside.
    pub(super) planes: usize,
    /// 2 where the block halves the side.
    pub(super) stride: usize,
}

impl BottleneckShape {
    pub(super) fn output_channels(&self) -> usize {
        EXPANSION * self.planes
    }

    /// Side of the pictures that come out.
    pub(super) fn output_side(&self) -> usize {
        self.side / self.stride
    }
}

/// `y = rectify(unit_3(pool(unit_2(unit_1(x)))) + shortcut(pool(x)))`.
///
/// # Shapes
/// `x` [batch, side, side, inputs], `y` [batch, side / stride, side / stride, 4 · planes].
#[derive(Debug)]
pub(super) struct Bottleneck {
    shape: BottleneckShape,
    convolutions: [ConvBatchNorm; 3],
    /// Where channels or side change, what came in is brought into the same shape.
    shortcut: Option<ConvBatchNorm>,
    cache: BottleneckCache,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct BottleneckCache {
    first: Tensor,
    second: Tensor,
    /// The second, and what came in, with half the side.
    pooled: Tensor,
    pooled_input: Tensor,
    output: Tensor,
}

impl BottleneckCache {
    fn new(memory: &Memory, sizes: &BottleneckShape) -> Self {
        let places = sizes.batch * sizes.side * sizes.side;
        let places_out = sizes.batch * sizes.output_side().pow(2);
        let pooled = if sizes.stride > 1 { places_out } else { 0 };
        Self {
            first: memory.alloc_activations(places * sizes.planes),
            second: memory.alloc_activations(places * sizes.planes),
            pooled: memory.alloc_activations(pooled * sizes.planes),
            pooled_input: memory.alloc_activations(pooled * sizes.inputs),
            output: memory.alloc_activations(places_out * sizes.output_channels()),
        }
    }
}

impl Bottleneck {
    /// Declares the block's weights under `name`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        sizes: BottleneckShape,
        lent: &mut ResnetWorkspace,
    ) -> Self {
        let BottleneckShape {
            batch,
            side,
            inputs,
            planes,
            stride,
        } = sizes;

        let places = batch * side * side;
        let places_out = batch * sizes.output_side().pow(2);
        let mut point = |layout: &mut ParamLayout, parts: [&str; 2], channels, size| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            ConvBatchNorm::declare_conv1x1(layout, (&convolution, &norm), channels, size, lent)
        };

        let first = point(
            layout,
            ["conv1", "bn1"],
            (inputs, planes),
            (places, ParamInit::Ones),
        );

        let names = [format!("{name}.conv2"), format!("{name}.bn2")];
        let channels = (planes, planes);
        let second = ConvBatchNorm::declare_conv3x3(
            layout,
            (&names[0], &names[1]),
            channels,
            (side, 1, batch),
            lent,
        );

        let mut point = |layout: &mut ParamLayout, parts: [&str; 2], inputs, weight| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            let channels = (inputs, sizes.output_channels());
            ConvBatchNorm::declare_conv1x1(
                layout,
                (&convolution, &norm),
                channels,
                (places_out, weight),
                lent,
            )
        };

        let third = point(layout, ["conv3", "bn3"], planes, ParamInit::Zeros);
        let shortcut = (stride > 1 || inputs != sizes.output_channels()).then(|| {
            point(
                layout,
                ["downsample.0", "downsample.1"],
                inputs,
                ParamInit::Ones,
            )
        });
        let saved = BottleneckCache::new(layout.memory(), &sizes);

        Self {
            shape: sizes,
            convolutions: [first, second, third],
            shortcut,
            cache: saved,
        }
    }

    /// What the last forward pass gave, for so many pictures.
    pub(super) fn output_view(&self, batch: usize) -> TensorView<'_> {
        self.cache
            .output
            .first_n(batch * self.shape.output_side().pow(2) * self.shape.output_channels())
    }

    /// Computes `y`.
    pub(super) fn forward(&mut self, pass: &mut ResnetForwardContext<'_>, x: TensorView<'_>) {
        let BottleneckShape {
            side,
            inputs,
            planes,
            stride,
            ..
        } = self.shape;

        let batch = x.len() / (side * side * inputs);
        let BottleneckCache {
            first,
            second,
            pooled,
            pooled_input,
            output,
        } = &mut self.cache;

        let [unit_1, unit_2, unit_3] = &mut self.convolutions;
        let narrow = batch * side * side * planes;
        let mut output = output.first_n_mut(batch * (side / stride).pow(2) * EXPANSION * planes);

        unit_1.forward(
            pass,
            x,
            first.first_n_mut(narrow),
            (Accumulate::No, PostActivation::Relu),
        );

        let first = first.first_n(narrow);
        let inner = second.first_n_mut(narrow);
        unit_2.forward(pass, first, inner, (Accumulate::No, PostActivation::Relu));
        let mut x = x;
        let mut inner = second.first_n(narrow);

        if stride > 1 {
            let pool = AveragePool {
                side,
                channels: inputs,
            };

            pool.forward(x, pooled_input.first_n_mut(x.len() / 4));
            AveragePool {
                side,
                channels: planes,
            }
            .forward(inner, pooled.first_n_mut(narrow / 4));

            (x, inner) = (
                pooled_input.first_n(x.len() / 4),
                pooled.first_n(narrow / 4),
            );
        }

        match &mut self.shortcut {
            Some(unit) => {
                unit.forward(
                    pass,
                    x,
                    output.reborrow(),
                    (Accumulate::No, PostActivation::Identity),
                );
            }
            None => output.copy_from(x),
        }

        unit_3.forward(pass, inner, output, (Accumulate::Yes, PostActivation::Relu));
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        x: TensorView<'_>,
        scratch: &mut ResnetScratch,
    ) {
        let BottleneckShape {
            side,
            inputs,
            planes,
            stride,
            ..
        } = self.shape;

        let batch = x.len() / (side * side * inputs);
        let ResnetScratch {
            workspace: lent,
            gradient,
            spare,
            branch,
        } = scratch;

        let narrow = x.len() / inputs * planes;
        let out = self.output_view(batch);
        let [unit_1, unit_2, unit_3] = &self.convolutions;
        let saved = &self.cache;
        residual::relu_backward_split(
            out,
            gradient.first_n_mut(out.len()),
            branch.first_n_mut(out.len()),
        );

        let dy = branch.first_n_mut(out.len());
        let inner = narrow / (stride * stride);
        let dinner = Some((spare.first_n_mut(inner), Accumulate::No));
        let x_3 = if stride > 1 {
            saved.pooled.first_n(inner)
        } else {
            saved.second.first_n(inner)
        };

        unit_3.backward(
            (values, gradients),
            lent,
            x_3,
            (dy, PostActivation::Identity),
            dinner,
        );
        if stride > 1 {
            let pool = AveragePool {
                side,
                channels: planes,
            };

            pool.backward(
                spare.first_n(inner),
                branch.first_n_mut(narrow),
                Accumulate::No,
            );
            std::mem::swap(spare, branch);
        }

        let dfirst = Some((branch.first_n_mut(narrow), Accumulate::No));
        let dy = (spare.first_n_mut(narrow), PostActivation::Relu);
        unit_2.backward(
            (values, gradients),
            lent,
            saved.first.first_n(narrow),
            dy,
            dfirst,
        );

        let dx = Some((spare.first_n_mut(x.len()), Accumulate::No));
        let dy = (branch.first_n_mut(narrow), PostActivation::Relu);
        unit_1.backward((values, gradients), lent, x, dy, dx);
        self.backward_shortcut((values, gradients), x, scratch);
    }

    /// Adds what goes past the units to their gradient of `x`.
    fn backward_shortcut(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        x: TensorView<'_>,
        ResnetScratch {
            workspace: lent,
            gradient,
            spare,
            branch,
        }: &mut ResnetScratch,
    ) {
        let BottleneckShape {
            side,
            inputs,
            stride,
            ..
        } = self.shape;

        let batch = x.len() / (side * side * inputs);
        let dout = gradient.first_n_mut(self.output_view(batch).len());
        let dx = spare.first_n_mut(x.len());

        match &self.shortcut {
            None => residual::add_residual(dout.as_view(), dx),
            Some(unit) if stride == 1 => {
                let dy = (dout, PostActivation::Identity);
                let dx = Some((dx, Accumulate::Yes));
                unit.backward((values, gradients), lent, x, dy, dx);
            }
            Some(unit) => {
                let mut dpooled = branch.first_n_mut(x.len() / 4);
                let pooled = self.cache.pooled_input.first_n(x.len() / 4);
                let to = Some((dpooled.reborrow(), Accumulate::No));
                unit.backward(
                    (values, gradients),
                    lent,
                    pooled,
                    (dout, PostActivation::Identity),
                    to,
                );
                AveragePool {
                    side,
                    channels: inputs,
                }
                .backward(dpooled.as_view(), dx, Accumulate::Yes);
            }
        }

        std::mem::swap(gradient, spare);
    }
}
