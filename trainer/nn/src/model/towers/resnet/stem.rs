//! The stem: three convolutions and a pool, which bring an image to a quarter of its side.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::PostActivation;
use cnclip_compute::ops::patchify::{PixelBatch, PixelBuffers, nchw_to_nhwc};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use super::conv_batch_norm::{Conv3x3Shape, ConvBatchNorm, ResnetWorkspace, UnitNames};
use super::{ResnetForwardContext, ResnetScratch};
use crate::model::towers::{FlatParams, InputGradient};

/// Three units and a pool.
///
/// # Shapes
/// Pixels `[batch, 3, side, side]` in, `[batch, side / 4, side / 4, width]` out.
#[derive(Debug)]
pub(super) struct ResnetStem {
    side: usize,
    width: usize,
    convolutions: [ConvBatchNorm; 3],
    pixel_buffer: PixelBuffers,
    cache: ResnetStemCache,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
struct ResnetStemCache {
    image: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor,
    output: Tensor,
}

impl ResnetStemCache {
    fn new(memory: &Memory, side: usize, width: usize, batch: usize) -> Self {
        let half = side / 2;
        let positions = batch * half * half;
        Self {
            image: memory.alloc_activations(batch * side * side * 3),
            first: memory.alloc_activations(positions * width / 2),
            second: memory.alloc_activations(positions * width / 2),
            third: memory.alloc_activations(positions * width),
            output: memory.alloc_activations(positions / 4 * width),
        }
    }
}

impl ResnetStem {
    /// Declares the weights, with memory for a batch of images.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        side: usize,
        width: usize,
        batch: usize,
        workspace: &mut ResnetWorkspace,
    ) -> Self {
        let first = Conv3x3Shape {
            inputs: 3,
            outputs: width / 2,
            side,
            stride: 2,
            batch,
        };

        let second = Conv3x3Shape {
            inputs: width / 2,
            side: side / 2,
            stride: 1,
            ..first
        };

        let third = Conv3x3Shape {
            outputs: width,
            ..second
        };

        let mut declare_unit = |number: usize, shape| {
            let names = UnitNames {
                convolution: format!("visual.conv{number}"),
                norm: format!("visual.bn{number}"),
            };

            ConvBatchNorm::declare_conv3x3(layout, &names, shape, workspace)
        };

        let convolutions = [
            declare_unit(1, first),
            declare_unit(2, second),
            declare_unit(3, third),
        ];

        let memory = layout.memory();
        Self {
            side,
            width,
            convolutions,
            pixel_buffer: PixelBuffers::new(memory, batch * side * side * 3),
            cache: ResnetStemCache::new(memory, side, width, batch),
        }
    }

    /// The output of the last forward pass, for a number of images.
    pub(super) fn output_view(&self, batch: usize) -> TensorView<'_> {
        self.cache
            .output
            .first_n(batch * (self.side / 4).pow(2) * self.width)
    }

    /// Computes the output.
    pub(super) fn forward(
        &mut self,
        context: &mut ResnetForwardContext<'_>,
        pixels: PixelBatch<'_>,
    ) {
        let pool = self.average_pool();
        let full = pixels.len() / 3 / 4 * self.width;
        let mut forward_unit =
            |unit: &mut ConvBatchNorm, x: TensorView<'_>, y: TensorViewMut<'_>| {
                unit.forward(context, x, y, Accumulate::No, PostActivation::Relu);
            };

        let ResnetStemCache {
            image,
            first,
            second,
            third,
            output,
        } = &mut self.cache;

        let mut image = image.first_n_mut(pixels.len());
        let mut first = first.first_n_mut(full / 2);
        let mut second = second.first_n_mut(full / 2);
        let mut third = third.first_n_mut(full);

        // Channels last, so that a convolution of 1 × 1 is a matrix product.
        let pixels = self.pixel_buffer.upload_pixels(pixels);
        nchw_to_nhwc(pixels, self.side, image.reborrow());

        let [unit_1, unit_2, unit_3] = &mut self.convolutions;
        forward_unit(unit_1, image.as_view(), first.reborrow());
        forward_unit(unit_2, first.as_view(), second.reborrow());
        forward_unit(unit_3, second.as_view(), third.reborrow());
        pool.forward(third.as_view(), output.first_n_mut(full / 4));
    }

    /// `scratch.gradient` holds the gradient of the output of a number of images; it is overwritten.
    pub(super) fn backward(
        &self,
        params: &mut FlatParams<'_>,
        batch: usize,
        scratch: &mut ResnetScratch,
    ) {
        let ResnetScratch {
            workspace,
            gradient,
            spare,
            ..
        } = scratch;

        let cache = &self.cache;
        let out = self.output_view(batch).len();
        let half = 2 * out;
        let [unit_1, unit_2, unit_3] = &self.convolutions;

        // Gradients go to and fro between the two arrays: each unit reads one and writes the other.
        let mut dthird = spare.first_n_mut(4 * out);
        self.average_pool()
            .backward(gradient.first_n(out), dthird.reborrow(), Accumulate::No);

        unit_3.backward(
            params,
            workspace,
            cache.second.first_n(half),
            dthird,
            PostActivation::Relu,
            Some(InputGradient::replace(gradient.first_n_mut(half))),
        );

        unit_2.backward(
            params,
            workspace,
            cache.first.first_n(half),
            gradient.first_n_mut(half),
            PostActivation::Relu,
            Some(InputGradient::replace(spare.first_n_mut(half))),
        );

        // Pixels need no gradient.
        unit_1.backward(
            params,
            workspace,
            cache.image.first_n(batch * self.side * self.side * 3),
            spare.first_n_mut(half),
            PostActivation::Relu,
            None,
        );
    }

    fn average_pool(&self) -> AveragePool {
        AveragePool {
            side: self.side / 2,
            channels: self.width,
        }
    }
}
