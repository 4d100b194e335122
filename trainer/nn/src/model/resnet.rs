//! The modified ResNet of CLIP: a stem of three convolutions, bottlenecks that pool where others
//! stride, and attention instead of a last mean.

mod attention_pool;
mod bottleneck;
mod conv_batch_norm;
mod stem;

use attention_pool::AttentionPool;
use bottleneck::{Bottleneck, EXPANSION};
use std::sync::Arc;

use cnclip_crds::model::ResnetConfig as Sizes;
use conv_batch_norm::ResnetWorkspace;
use stem::ResnetStem;

use super::param_ranges::ParamRanges;
use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

/// The image tower of RN50.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, features [batch, features] out.
#[derive(Debug)]
pub struct ModifiedResnet {
    side: usize,
    features: usize,
    stem: ResnetStem,
    blocks: Vec<Bottleneck>,
    pool: AttentionPool,
    /// The stem, each block, and the pool.
    param_ranges: ParamRanges,
    scratch: ResnetScratch,
}

/// Memory that the parts of the tower borrow in turn.
#[derive(Debug)]
struct ResnetScratch {
    workspace: ResnetWorkspace,
    /// The gradient on its way through the blocks.
    gradient: Tensor,
    /// Whatever a block needs for a moment.
    spare: Tensor,
    /// And something else.
    branch: Tensor,
}

/// What a forward pass reads and changes besides activations.
struct ResnetForwardContext<'a> {
    values: TensorView<'a>,
    /// The running statistics.
    buffers: TensorViewMut<'a>,
    /// Whether batches are normalised by their own statistics.
    training: bool,
    workspace: &'a mut ResnetWorkspace,
}

impl ModifiedResnet {
    /// Declares the tower's weights under `visual`, with memory for `batch` pictures.
    pub fn declare_params(
        layout: &mut ParamLayout,
        sizes: &Sizes,
        (side, features): (usize, usize),
        batch: usize,
    ) -> Self {
        let width = sizes.width as usize;
        let mut lent = ResnetWorkspace::default();
        let mut parts = ParamRanges::starting_at_end(layout);
        let stem = ResnetStem::declare_params(layout, (side, width, batch), &mut lent);
        parts.close_range(layout);
        let mut inputs = width;
        let mut grid = side / 4;
        let mut blocks = Vec::new();

        for (layer, &count) in sizes.layers.iter().enumerate() {
            for block in 0..count as usize {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let planes = width << layer;
                let sizes = bottleneck::BottleneckShape {
                    batch,
                    side: grid,
                    inputs,
                    planes,
                    stride,
                };

                let name = format!("visual.layer{}.{block}", layer + 1);
                blocks.push(Bottleneck::declare_params(layout, &name, sizes, &mut lent));
                parts.close_range(layout);
                (inputs, grid) = (EXPANSION * planes, grid / stride);
            }
        }

        let pool = AttentionPool::declare_params(layout, (grid * grid, inputs), features, batch);
        parts.close_range(layout);
        // The stem's last unit and the first layer give the largest activations of all.
        let array = || {
            layout
                .memory()
                .alloc_activations(batch * (side / 2).pow(2) * width)
        };
        let scratch = ResnetScratch {
            workspace: lent,
            gradient: array(),
            spare: array(),
            branch: array(),
        };

        Self {
            side,
            features,
            stem,
            blocks,
            pool,
            param_ranges: parts,
            scratch,
        }
    }

    /// Numbers in one picture.
    pub fn values_per_image(&self) -> usize {
        3 * self.side * self.side
    }

    /// From now on a batch in training is normalised by the statistics of all ranks' batches.
    pub fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.scratch.workspace.synchronize_batch_norm(ranks);
    }

    /// Writes the features of a batch: in training, normalised by the batch's own statistics, which
    /// the running ones in `state` then follow.
    pub fn forward(
        &mut self,
        (values, state): (TensorView<'_>, TensorViewMut<'_>),
        pixels: PixelBatch<'_>,
        training: bool,
        features: TensorViewMut<'_>,
    ) {
        let batch = pixels.len() / self.values_per_image();
        let pass = &mut ResnetForwardContext {
            values,
            buffers: state,
            training,
            workspace: &mut self.scratch.workspace,
        };

        self.stem.forward(pass, pixels);
        let mut x = self.stem.output_view(batch);
        for block in &mut self.blocks {
            block.forward(pass, x);
            x = block.output_view(batch);
        }

        self.pool.forward(values, x, features);
    }

    /// Adds to the gradients of the weights, given that of the features; hands them on part by part.
    /// To be called after a forward pass in training.
    pub fn backward(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        let batch = dfeatures.len() / self.features;
        let stem = &self.stem;
        let blocks = &self.blocks;
        let scratch = &mut self.scratch;
        let input = |at: usize| match at.checked_sub(1) {
            Some(before) => blocks[before].output_view(batch),
            None => stem.output_view(batch),
        };

        let dx = scratch.gradient.first_n_mut(input(blocks.len()).len());
        self.pool.backward((values, gradients), dfeatures, dx);
        reducer.reduce_gradients(gradients, self.param_ranges.last_range());

        for (at, block) in blocks.iter().enumerate().rev() {
            block.backward((values, gradients), input(at), scratch);
            reducer.reduce_gradients(gradients, self.param_ranges.part_range(1 + at));
        }

        stem.backward((values, gradients), batch, scratch);
        reducer.reduce_gradients(gradients, self.param_ranges.part_range(0));
    }
}
