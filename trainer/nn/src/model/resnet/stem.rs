//! The first three convolutions, which bring a picture to a quarter of its side.

use super::conv_batch_norm::{ConvBatchNorm, ResnetWorkspace};
use super::{ResnetForwardContext, ResnetScratch};
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::PostActivation;
use cnclip_compute::ops::patchify::{PixelBatch, PixelBuffers, nchw_to_nhwc};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

/// What the forward pass of a unit is told: nothing is added, and negative values become zero.
const REPLACE_WITH_RELU: (Accumulate, PostActivation) = (Accumulate::No, PostActivation::Relu);

/// Three units and a pool.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, [batch, side / 4, side / 4, width] out.
#[derive(Debug)]
pub(super) struct ResnetStem {
    side: usize,
    width: usize,
    convolutions: [ConvBatchNorm; 3],
    pixel_buffer: PixelBuffers,
    cache: ResnetStemCache,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct ResnetStemCache {
    image: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor,
    output: Tensor,
}

impl ResnetStem {
    /// Declares the weights, with memory for a batch of pictures.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        (side, width, batch): (usize, usize, usize),
        lent: &mut ResnetWorkspace,
    ) -> Self {
        let half = side / 2;
        let mut unit = |at: usize, channels, side, stride| {
            let names = [format!("visual.conv{at}"), format!("visual.bn{at}")];
            let size = (side, stride, batch);
            ConvBatchNorm::declare_conv3x3(layout, (&names[0], &names[1]), channels, size, lent)
        };

        let units = [
            unit(1, (3, width / 2), side, 2),
            unit(2, (width / 2, width / 2), half, 1),
            unit(3, (width / 2, width), half, 1),
        ];

        let places = batch * half * half;
        let memory = layout.memory();
        let saved = ResnetStemCache {
            image: memory.alloc_activations(batch * side * side * 3),
            first: memory.alloc_activations(places * width / 2),
            second: memory.alloc_activations(places * width / 2),
            third: memory.alloc_activations(places * width),
            output: memory.alloc_activations(places / 4 * width),
        };

        let plate = PixelBuffers::new(memory, batch * side * side * 3);
        Self {
            side,
            width,
            convolutions: units,
            pixel_buffer: plate,
            cache: saved,
        }
    }

    /// What the last forward pass gave, for so many pictures.
    pub(super) fn output_view(&self, batch: usize) -> TensorView<'_> {
        self.cache
            .output
            .first_n(batch * (self.side / 4).pow(2) * self.width)
    }

    /// Computes the output.
    pub(super) fn forward(&mut self, pass: &mut ResnetForwardContext<'_>, pixels: PixelBatch<'_>) {
        let ResnetStemCache {
            image: picture,
            first,
            second,
            third,
            output,
        } = &mut self.cache;

        let mut picture = picture.first_n_mut(pixels.len());
        let full = pixels.len() / 3 / 4 * self.width;
        let mut first = first.first_n_mut(full / 2);
        let mut second = second.first_n_mut(full / 2);
        let mut third = third.first_n_mut(full);

        nchw_to_nhwc(
            self.pixel_buffer.upload_pixels(pixels),
            self.side,
            picture.reborrow(),
        );
        self.convolutions[0].forward(pass, picture.as_view(), first.reborrow(), REPLACE_WITH_RELU);
        self.convolutions[1].forward(pass, first.as_view(), second.reborrow(), REPLACE_WITH_RELU);
        self.convolutions[2].forward(pass, second.as_view(), third.reborrow(), REPLACE_WITH_RELU);
        let pool = AveragePool {
            side: self.side / 2,
            channels: self.width,
        };

        pool.forward(third.as_view(), output.first_n_mut(full / 4));
    }

    /// `scratch.gradient` holds the gradient of the output of so many pictures; it is used up.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        batch: usize,
        ResnetScratch {
            workspace: lent,
            gradient,
            spare,
            ..
        }: &mut ResnetScratch,
    ) {
        let saved = &self.cache;
        let out = self.output_view(batch).len();
        let half = 2 * out;
        let mut dthird = spare.first_n_mut(4 * out);
        self.average_pool()
            .backward(gradient.first_n(out), dthird.reborrow(), Accumulate::No);
        let dx = Some((gradient.first_n_mut(half), Accumulate::No));
        let x = saved.second.first_n(half);

        let dy = (dthird, PostActivation::Relu);
        self.convolutions[2].backward((values, gradients), lent, x, dy, dx);
        let dx = Some((spare.first_n_mut(half), Accumulate::No));
        let x = saved.first.first_n(half);
        let dy = (gradient.first_n_mut(half), PostActivation::Relu);

        self.convolutions[1].backward((values, gradients), lent, x, dy, dx);
        let x = saved.image.first_n(batch * self.side * self.side * 3);
        let dy = (spare.first_n_mut(half), PostActivation::Relu);
        self.convolutions[0].backward((values, gradients), lent, x, dy, None);
    }

    fn average_pool(&self) -> AveragePool {
        AveragePool {
            side: self.side / 2,
            channels: self.width,
        }
    }
}
