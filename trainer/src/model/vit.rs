//! The vision transformer: patches and a class token, pre-normalised blocks, the class token pooled.

mod block;

use block::Block;
use cnclip_crds::model::Vit as Sizes;

use super::parts::Parts;
use super::scratch::Scratch;
use super::shelf::Shelf;
use crate::ops::attention::Attention;
use crate::ops::layer_norm::{LayerNorm, Moments};
use crate::ops::linear::Linear;
use crate::ops::matrix::Onto;
use crate::ops::pixels::{Pixels, cut_patches};
use crate::ops::ranks::Reducer;
use crate::ops::rows::{Keep, Sequences, Tokens};
use crate::params::{Init, Layout, Weight};

/// PyTorch's default.
const EPSILON: f32 = 1e-5;

/// The image tower of all models but RN50.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, features [batch, features] out.
#[derive(Debug)]
pub struct Vit {
    side: usize,
    patch: usize,
    width: usize,
    patch_embedding: Linear,
    class_embedding: Weight,
    positions: Weight,
    norm_pre: LayerNorm,
    blocks: Vec<Block>,
    norm_post: LayerNorm,
    projection: Linear,
    /// The embedding, each block, and what comes behind them.
    parts: Parts,
    offsets: Vec<usize>,
    shelf: Shelf<block::Saved>,
    scratch: Scratch,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    patches: Vec<f32>,
    embedded: Vec<f32>,
    moments_pre: Vec<Moments>,
    /// What goes into each block, and what comes out of the last.
    tokens: Vec<Vec<f32>>,
    moments_post: Vec<Moments>,
    pooled: Vec<f32>,
}

impl Saved {
    fn new(batch: usize, tokens: usize, row: usize, width: usize, layers: usize) -> Self {
        let rows = batch * tokens;
        Self {
            patches: vec![0.0; rows * row],
            embedded: vec![0.0; rows * width],
            moments_pre: vec![[0.0; 2]; rows],
            tokens: vec![vec![0.0; rows * width]; layers + 1],
            moments_post: vec![[0.0; 2]; batch],
            pooled: vec![0.0; batch * width],
        }
    }
}

impl Vit {
    /// Declares the tower's weights under `visual`, with memory for `batch` pictures; `recompute` has
    /// its blocks share some.
    pub fn declare(
        layout: &mut Layout,
        sizes: &Sizes,
        (side, features): (usize, usize),
        (batch, recompute): (usize, bool),
    ) -> Self {
        let [width, patch, layers, head] =
            [sizes.width, sizes.patch_size, sizes.layers, sizes.head_width].map(|n| n as usize);
        let (tokens, row) = (1 + (side / patch).pow(2), 3 * patch * patch);
        let precision = layout.precision();
        let attention = Attention { heads: width / head, width, longest: tokens, precision };
        let normal = Init::Normal((width as f32).powf(-0.5));
        let mut parts = Parts::begin(layout);
        let class_embedding = layout.weight("visual.class_embedding", &[width], normal);
        let positions = layout.weight("visual.positional_embedding", &[tokens, width], normal);
        let shape = [width, 3, patch, patch];
        let convolution = layout.weight("visual.conv1.weight", &shape, Init::fan_in(row));
        let norm_pre = LayerNorm::declare(layout, "visual.ln_pre", width, EPSILON);
        parts.end(layout);
        let block = |layer: usize| {
            let keep = if layer + 1 == layers { Keep::First } else { Keep::All };
            let block = Block::declare(layout, layer, attention, keep);
            parts.end(layout);
            block
        };
        let blocks: Vec<_> = (0..layers).map(block).collect();
        let reserve = |block: &Block| block.reserve((batch * tokens, batch));
        let norm_post = LayerNorm::declare(layout, "visual.ln_post", width, EPSILON);
        let projection = layout.weight("visual.proj", &[width, features], normal);
        parts.end(layout);
        Self {
            side,
            patch,
            width,
            shelf: Shelf::new(&blocks, recompute, reserve),
            patch_embedding: Linear::new(convolution, None, row),
            class_embedding,
            positions,
            norm_pre,
            blocks,
            norm_post,
            projection: Linear::projection(projection, width),
            parts,
            offsets: (0..=batch).map(|sample| sample * tokens).collect(),
            scratch: Scratch::new(batch * tokens, 4 * width, attention),
            saved: Saved::new(batch, tokens, row, width, layers),
        }
    }

    /// Numbers in one picture.
    pub fn picture(&self) -> usize {
        3 * self.side * self.side
    }

    /// Patches of one picture.
    pub fn patches(&self) -> usize {
        (self.side / self.patch).pow(2)
    }

    /// Writes the features of a batch, of which some patches are seen.
    ///
    /// # Shapes
    /// `seen` [batch, seen]
    pub fn forward(
        &mut self,
        values: &[f32],
        (pixels, seen): (Pixels<'_>, &[u32]),
        features: &mut [f32],
    ) {
        let batch = pixels.len() / self.picture();
        let tokens = 1 + seen.len() / batch;
        let offsets = self.offsets.iter_mut().enumerate();
        offsets.for_each(|(sample, offset)| *offset = sample * tokens);
        self.embed(values, (pixels, seen), batch);
        for layer in 0..self.blocks.len() {
            self.run(layer, values, batch);
        }
        let Saved { tokens, moments_post, pooled, .. } = &mut self.saved;
        let pooled = &mut pooled[..batch * self.width];
        let last = &tokens[self.blocks.len()][..pooled.len()];
        self.norm_post.forward(values, last, pooled, &mut moments_post[..batch]);
        self.projection.forward(values, pooled, features, Onto::Replace);
    }

    /// Adds to the gradients of the weights, given that of the features and the patches that the
    /// forward pass saw; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (&[f32], &mut [f32]),
        seen: &[u32],
        (dfeatures, reducer): (&[f32], &mut dyn Reducer),
    ) {
        let batch = dfeatures.len() / self.projection.outputs();
        let few = batch * self.width;
        let (saved, scratch) = (&self.saved, &mut self.scratch);
        let dpooled = &mut scratch.narrow[..few];
        let pooled = &saved.pooled[..few];
        self.projection.backward((values, gradients), pooled, dfeatures, dpooled, Onto::Replace);
        let last = (&saved.tokens[self.blocks.len()][..few], &saved.moments_post[..batch]);
        let dlast = &mut scratch.gradient[..few];
        self.norm_post.backward((values, gradients), last, dpooled, dlast, Onto::Replace);
        reducer.reduce(&mut (&mut *gradients).into(), self.parts.last());
        for layer in (0..self.blocks.len()).rev() {
            if self.shelf.overwritten(layer) {
                self.run(layer, values, batch);
            }
            let sequences = Sequences::new(&self.offsets[..=batch]);
            let memory = (&*self.shelf.place(layer), &mut self.scratch);
            let x = &self.saved.tokens[layer];
            self.blocks[layer].backward((values, gradients), sequences, x, memory);
            reducer.reduce(&mut (&mut *gradients).into(), self.parts.range(1 + layer));
        }
        self.backward_embed((values, gradients), seen, batch);
        reducer.reduce(&mut (&mut *gradients).into(), self.parts.range(0));
    }

    /// One block forward.
    fn run(&mut self, layer: usize, values: &[f32], batch: usize) {
        let sequences = Sequences::new(&self.offsets[..=batch]);
        let (before, after) = self.saved.tokens.split_at_mut(layer + 1);
        let memory = (self.shelf.place(layer), &mut self.scratch);
        self.blocks[layer].forward(values, sequences, &before[layer], &mut after[0], memory);
    }

    fn embed(&mut self, values: &[f32], (pixels, seen): (Pixels<'_>, &[u32]), batch: usize) {
        let (rows, width) = (self.offsets[batch], self.width);
        let Saved { patches, embedded, moments_pre, tokens, .. } = &mut self.saved;
        let patches = &mut patches[..rows * self.patch_embedding.inputs()];
        cut_patches(pixels, (self.side, self.patch), seen, patches);
        let embedded = &mut embedded[..rows * width];
        let (class, positions) = (self.class_embedding.of(values), self.positions.of(values));
        let sequences = Sequences::new(&self.offsets[..=batch]);
        sequences.each(Tokens(&mut *embedded, width), |sample, rows| {
            for (row, place) in rows.0.chunks_exact_mut(width).zip(places(seen, batch, sample)) {
                row.copy_from_slice(&positions[place * width..][..width]);
            }
            rows.0.iter_mut().zip(class).for_each(|(row, class)| *row += class);
        });
        // The class token's patch is zero, so the product leaves its row alone.
        self.patch_embedding.forward(values, patches, embedded, Onto::Add);
        let first = &mut tokens[0][..rows * width];
        self.norm_pre.forward(values, embedded, first, &mut moments_pre[..rows]);
    }

    fn backward_embed(
        &mut self,
        (values, gradients): (&[f32], &mut [f32]),
        seen: &[u32],
        batch: usize,
    ) {
        let (rows, width) = (self.offsets[batch], self.width);
        let (saved, scratch) = (&self.saved, &mut self.scratch);
        let dy = &scratch.gradient[..rows * width];
        let dx = &mut scratch.narrow[..rows * width];
        let inner = (&saved.embedded[..dx.len()], &saved.moments_pre[..rows]);
        self.norm_pre.backward((values, gradients), inner, dy, dx, Onto::Replace);
        let patches = &saved.patches[..rows * self.patch_embedding.inputs()];
        self.patch_embedding.backward_weights(gradients, patches, dx);
        for (sample, dx) in dx.chunks_exact(dx.len() / batch).enumerate() {
            let positions = self.positions.of_mut(gradients);
            for (dx, place) in dx.chunks_exact(width).zip(places(seen, batch, sample)) {
                add(&mut positions[place * width..][..width], dx);
            }
            add(self.class_embedding.of_mut(gradients), &dx[..width]);
        }
    }
}

/// The position of each token of a picture: the class token's, then those of the patches seen.
fn places(seen: &[u32], batch: usize, sample: usize) -> impl Iterator<Item = usize> {
    let of_picture = seen.len() / batch;
    let patches = seen[sample * of_picture..][..of_picture].iter();
    std::iter::once(0).chain(patches.map(|&patch| 1 + patch as usize))
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
