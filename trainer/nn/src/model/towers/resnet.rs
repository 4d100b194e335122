//! The image tower of RN50: CLIP's modified ResNet, with a stem of three convolutions, bottlenecks that
//! pool where others stride, and attention pooling instead of an average.

mod attention_pool;
mod bottleneck;
mod conv_batch_norm;
mod stem;

use std::sync::Arc;

use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamLayout, Params};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};
use cnclip_crds::model::ResnetConfig;

use super::param_ranges::ParamRanges;
use super::{BlockOutput, FlatParams, ImageEncoder};
use attention_pool::AttentionPool;
use bottleneck::{Bottleneck, BottleneckShape};
use conv_batch_norm::ResnetWorkspace;
use stem::ResnetStem;

/// The image tower of RN50.
///
/// # Shapes
/// Pixels `[batch, 3, side, side]` in, features `[batch, features]` out.
#[derive(Debug)]
pub struct ModifiedResnet {
    side: usize,
    features: usize,
    stem: ResnetStem,
    blocks: Vec<Bottleneck>,
    block_names: Vec<String>,
    pool: AttentionPool,
    /// The stem, each block, and the pool.
    param_ranges: ParamRanges,
    scratch: ResnetScratch,
}

/// Memory that the parts of the tower use in turn.
#[derive(Debug)]
struct ResnetScratch {
    workspace: ResnetWorkspace,
    /// The gradient on its way from block to block.
    gradient: Tensor,
    /// Gradients inside a block.
    spare: Tensor,
    /// Gradients of the other branch of a residual connection.
    branch: Tensor,
}

impl ResnetScratch {
    fn new(memory: &Memory, len: usize, workspace: ResnetWorkspace) -> Self {
        let alloc = || memory.alloc_activations(len);
        Self {
            workspace,
            gradient: alloc(),
            spare: alloc(),
            branch: alloc(),
        }
    }
}

/// What a forward pass reads and writes besides activations.
struct ResnetForwardContext<'a> {
    values: TensorView<'a>,
    /// The running statistics of batch normalisation.
    buffers: TensorViewMut<'a>,
    /// Whether batches are normalised by their own statistics.
    training: bool,
    workspace: &'a mut ResnetWorkspace,
}

impl ModifiedResnet {
    /// Declares the tower's weights under `visual`, with memory for a batch of images.
    pub fn declare_params(
        layout: &mut ParamLayout,
        config: &ResnetConfig,
        side: usize,
        features: usize,
        batch: usize,
    ) -> Self {
        let width = config.width as usize;
        let mut workspace = ResnetWorkspace::default();
        let mut param_ranges = ParamRanges::starting_at_end(layout);
        let stem = ResnetStem::declare_params(layout, side, width, batch, &mut workspace);
        param_ranges.close_range(layout);

        let mut blocks = Vec::new();
        let mut block_names = Vec::new();
        let mut channels = width;
        let mut grid = side / 4;
        for BlockPosition { name, shape } in block_positions(config, side, batch) {
            blocks.push(Bottleneck::declare_params(
                layout,
                &name,
                shape,
                &mut workspace,
            ));

            block_names.push(name);
            param_ranges.close_range(layout);
            channels = shape.output_channels();
            grid = shape.output_side();
        }

        let pool = AttentionPool::declare_params(layout, grid * grid, channels, features, batch);
        param_ranges.close_range(layout);

        // The stem's last unit and the first layer have the largest activations of all.
        let largest = batch * (side / 2).pow(2) * width;
        Self {
            side,
            features,
            stem,
            blocks,
            block_names,
            pool,
            param_ranges,
            scratch: ResnetScratch::new(layout.memory(), largest, workspace),
        }
    }
}

impl ImageEncoder for ModifiedResnet {
    fn values_per_image(&self) -> usize {
        3 * self.side * self.side
    }

    fn block_outputs(&self, batch: usize) -> Vec<BlockOutput<'_>> {
        let stem = BlockOutput {
            name: "visual.bn3".to_owned(),
            values: self.stem.output_view(batch),
        };

        let blocks = self.blocks.iter().zip(&self.block_names);
        let blocks = blocks.map(|(block, name)| BlockOutput {
            name: name.clone(),
            values: block.output_view(batch),
        });

        [stem].into_iter().chain(blocks).collect()
    }

    fn forward(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        training: bool,
        _dropout: Dropout,
        features: TensorViewMut<'_>,
    ) {
        let batch = pixels.len() / self.values_per_image();
        let values = params.values.view();
        // In training, batches are normalised by their own statistics, which the running ones then follow.
        let context = &mut ResnetForwardContext {
            values,
            buffers: params.buffers.view_mut(),
            training,
            workspace: &mut self.scratch.workspace,
        };

        self.stem.forward(context, pixels);
        let mut x = self.stem.output_view(batch);
        for block in &mut self.blocks {
            block.forward(context, x);
            x = block.output_view(batch);
        }

        self.pool.forward(values, x, features);
    }

    fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        let batch = dfeatures.len() / self.features;
        let stem = &self.stem;
        let blocks = &self.blocks;
        let scratch = &mut self.scratch;
        let block_input = |index: usize| match index.checked_sub(1) {
            Some(before) => blocks[before].output_view(batch),
            None => stem.output_view(batch),
        };

        // Blocks keep no copy of their input: it is the output of the block before, which is kept anyway.
        let dx_len = block_input(blocks.len()).len();
        let dx = scratch.gradient.first_n_mut(dx_len);
        self.pool.backward(params, dfeatures, dx);
        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.last_range());

        for (index, block) in blocks.iter().enumerate().rev() {
            block.backward(params, block_input(index), scratch);
            // Range 0 is the stem.
            let range = self.param_ranges.part_range(1 + index);
            reducer.reduce_gradients(&mut params.gradients, range);
        }

        stem.backward(params, batch, scratch);
        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.part_range(0));
    }

    fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.scratch.workspace.synchronize_batch_norm(ranks);
    }
}

/// A bottleneck's name in the state dict, and its sizes.
struct BlockPosition {
    name: String,
    shape: BottleneckShape,
}

/// The bottlenecks of all four layers, in order: each layer but the first halves the side in its first
/// block and doubles the channels.
fn block_positions(config: &ResnetConfig, side: usize, batch: usize) -> Vec<BlockPosition> {
    let width = config.width as usize;
    let mut positions = Vec::new();
    let mut inputs = width;
    let mut grid = side / 4;

    for (layer, &count) in config.layers.iter().enumerate() {
        for block in 0..count as usize {
            let shape = BottleneckShape {
                batch,
                side: grid,
                inputs,
                planes: width << layer,
                stride: if layer > 0 && block == 0 { 2 } else { 1 },
            };

            positions.push(BlockPosition {
                name: format!("visual.layer{}.{block}", layer + 1),
                shape,
            });

            inputs = shape.output_channels();
            grid = shape.output_side();
        }
    }

    positions
}
