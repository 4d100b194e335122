//! The modified ResNet of CLIP: a stem of three convolutions, bottlenecks that pool where others
//! stride, and attention instead of a last mean.

mod attention_pool;
mod bottleneck;
mod stem;
mod unit;

use attention_pool::AttentionPool;
use bottleneck::{Bottleneck, EXPANSION};
use std::sync::Arc;

use cnclip_crds::model::Resnet as Sizes;
use stem::Stem;
use unit::Lent;

use super::parts::Parts;
use cnclip_compute::collective::{Ranks, Reducer};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Layout;
use cnclip_compute::tensor::{Array, View, ViewMut};

/// The image tower of RN50.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, features [batch, features] out.
#[derive(Debug)]
pub struct Resnet {
    side: usize,
    features: usize,
    stem: Stem,
    blocks: Vec<Bottleneck>,
    pool: AttentionPool,
    /// The stem, each block, and the pool.
    parts: Parts,
    scratch: Scratch,
}

/// Memory that the parts of the tower borrow in turn.
#[derive(Debug)]
struct Scratch {
    lent: Lent,
    /// The gradient on its way through the blocks.
    gradient: Array,
    /// Whatever a block needs for a moment.
    spare: Array,
    /// And something else.
    branch: Array,
}

/// What a forward pass reads and changes besides activations.
struct Pass<'a> {
    values: View<'a>,
    /// The running statistics.
    state: ViewMut<'a>,
    /// Whether batches are normalised by their own statistics.
    training: bool,
    lent: &'a mut Lent,
}

impl Resnet {
    /// Declares the tower's weights under `visual`, with memory for `batch` pictures.
    pub fn declare(
        layout: &mut Layout,
        sizes: &Sizes,
        (side, features): (usize, usize),
        batch: usize,
    ) -> Self {
        let width = sizes.width as usize;
        let mut lent = Lent::default();
        let mut parts = Parts::begin(layout);
        let stem = Stem::declare(layout, (side, width, batch), &mut lent);
        parts.end(layout);
        let mut inputs = width;
        let mut grid = side / 4;
        let mut blocks = Vec::new();

        for (layer, &count) in sizes.layers.iter().enumerate() {
            for block in 0..count as usize {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let planes = width << layer;
                let sizes = bottleneck::Sizes {
                    batch,
                    side: grid,
                    inputs,
                    planes,
                    stride,
                };

                let name = format!("visual.layer{}.{block}", layer + 1);
                blocks.push(Bottleneck::declare(layout, &name, sizes, &mut lent));
                parts.end(layout);
                (inputs, grid) = (EXPANSION * planes, grid / stride);
            }
        }

        let pool = AttentionPool::declare(layout, (grid * grid, inputs), features, batch);
        parts.end(layout);
        // The stem's last unit and the first layer give the largest activations of all.
        let array = || layout.memory().array(batch * (side / 2).pow(2) * width);
        let scratch = Scratch {
            lent,
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
            parts,
            scratch,
        }
    }

    /// Numbers in one picture.
    pub fn picture(&self) -> usize {
        3 * self.side * self.side
    }

    /// From now on a batch in training is normalised by the statistics of all ranks' batches.
    pub fn synchronize(&mut self, ranks: Arc<dyn Ranks>) {
        self.scratch.lent.synchronize(ranks);
    }

    /// Writes the features of a batch: in training, normalised by the batch's own statistics, which
    /// the running ones in `state` then follow.
    pub fn forward(
        &mut self,
        (values, state): (View<'_>, ViewMut<'_>),
        pixels: Pixels<'_>,
        training: bool,
        features: ViewMut<'_>,
    ) {
        let batch = pixels.len() / self.picture();
        let pass = &mut Pass {
            values,
            state,
            training,
            lent: &mut self.scratch.lent,
        };

        self.stem.forward(pass, pixels);
        let mut x = self.stem.output(batch);
        for block in &mut self.blocks {
            block.forward(pass, x);
            x = block.output(batch);
        }

        self.pool.forward(values, x, features);
    }

    /// Adds to the gradients of the weights, given that of the features; hands them on part by part.
    /// To be called after a forward pass in training.
    pub fn backward(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        dfeatures: View<'_>,
        reducer: &mut dyn Reducer,
    ) {
        let batch = dfeatures.len() / self.features;
        let stem = &self.stem;
        let blocks = &self.blocks;
        let scratch = &mut self.scratch;
        let input = |at: usize| match at.checked_sub(1) {
            Some(before) => blocks[before].output(batch),
            None => stem.output(batch),
        };

        let dx = scratch.gradient.first_mut(input(blocks.len()).len());
        self.pool.backward((values, gradients), dfeatures, dx);
        reducer.reduce(gradients, self.parts.last());

        for (at, block) in blocks.iter().enumerate().rev() {
            block.backward((values, gradients), input(at), scratch);
            reducer.reduce(gradients, self.parts.range(1 + at));
        }

        stem.backward((values, gradients), batch, scratch);
        reducer.reduce(gradients, self.parts.range(0));
    }
}
