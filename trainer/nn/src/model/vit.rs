//! The vision transformer: patches and a class token, pre-normalised blocks, the class token pooled.

mod block;

use block::Block;
use cnclip_crds::model::Vit as Sizes;

use super::parts::Parts;
use super::placed::Placed;
use super::scratch::Scratch;
use super::shelf::Shelf;
use cnclip_compute::collective::Reducer;
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::patchify::{Pixels, Plate, cut_patches};
use cnclip_compute::ops::positions;
use cnclip_compute::ops::rows::{Keep, Sequences};
use cnclip_compute::params::{Init, Layout, Weight};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

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
    /// The class token, then the positions.
    places: Weight,
    norm_pre: LayerNorm,
    blocks: Vec<Block>,
    norm_post: LayerNorm,
    projection: Linear,
    /// The embedding, each block, and what comes behind them.
    parts: Parts,
    offsets: Vec<usize>,
    /// The pictures, where they begin and which of their patches are seen, on a device.
    plate: Plate,
    placed: Placed,
    shelf: Shelf<block::Saved>,
    scratch: Scratch,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    patches: Array,
    embedded: Array,
    moments_pre: Array,
    /// What goes into each block, and what comes out of the last.
    tokens: Vec<Array>,
    moments_post: Array,
    pooled: Array,
}

impl Saved {
    fn new(
        memory: &Memory,
        (batch, tokens): (usize, usize),
        (row, width): (usize, usize),
        layers: usize,
    ) -> Self {
        let rows = batch * tokens;
        Self {
            patches: memory.array(rows * row),
            embedded: memory.array(rows * width),
            moments_pre: memory.exact(rows * MOMENTS),
            tokens: (0..=layers).map(|_| memory.array(rows * width)).collect(),
            moments_post: memory.exact(batch * MOMENTS),
            pooled: memory.array(batch * width),
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
        let [width, patch, layers, head] = [
            sizes.width,
            sizes.patch_size,
            sizes.layers,
            sizes.head_width,
        ]
        .map(|n| n as usize);

        let tokens = 1 + (side / patch).pow(2);
        let row = 3 * patch * patch;
        let precision = layout.precision();
        let memory = layout.memory().clone();
        let heads = (width / head, width);
        let attention = Attention::within(layout.memory(), heads, tokens, precision);
        let normal = Init::Normal((width as f32).powf(-0.5));
        let mut parts = Parts::begin(layout);

        let class = layout.weight("visual.class_embedding", &[width], normal);
        let positions = layout.weight("visual.positional_embedding", &[tokens, width], normal);
        let shape = [width, 3, patch, patch];
        let convolution = layout.weight("visual.conv1.weight", &shape, Init::fan_in(row));
        let norm_pre = LayerNorm::declare(layout, "visual.ln_pre", width, EPSILON);

        parts.end(layout);
        let block = |layer: usize| {
            let keep = if layer + 1 == layers {
                Keep::First
            } else {
                Keep::All
            };

            let block = Block::declare(layout, layer, attention, keep);
            parts.end(layout);
            block
        };

        let blocks: Vec<_> = (0..layers).map(block).collect();
        let reserve = |block: &Block| block.reserve(&memory, (batch * tokens, batch));
        let norm_post = LayerNorm::declare(layout, "visual.ln_post", width, EPSILON);
        let projection = layout.weight("visual.proj", &[width, features], normal);
        parts.end(layout);

        Self {
            side,
            patch,
            width,
            shelf: Shelf::new(&blocks, recompute, reserve),
            patch_embedding: Linear::new(convolution, None, row),
            places: Weight::join(&[class, positions]),
            norm_pre,
            blocks,
            norm_post,
            projection: Linear::projection(projection, width),
            parts,
            offsets: (0..=batch).map(|sample| sample * tokens).collect(),
            plate: Plate::new(&memory, batch * 3 * side * side),
            placed: Placed::new(&memory, batch, batch * (tokens - 1)),
            scratch: Scratch::new(&memory, batch * tokens, 4 * width, attention),
            saved: Saved::new(&memory, (batch, tokens), (row, width), layers),
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
        values: View<'_>,
        (pixels, seen): (Pixels<'_>, &[u32]),
        features: ViewMut<'_>,
    ) {
        let batch = pixels.len() / self.picture();
        let tokens = 1 + seen.len() / batch;
        let offsets = self.offsets.iter_mut().enumerate();
        offsets.for_each(|(sample, offset)| *offset = sample * tokens);
        self.placed.take(&self.offsets[..=batch], seen);
        self.embed(values, (pixels, seen), batch);

        for layer in 0..self.blocks.len() {
            self.run(layer, values, batch);
        }

        let Saved {
            tokens,
            moments_post,
            pooled,
            ..
        } = &mut self.saved;

        let few = batch * self.width;
        let last = tokens[self.blocks.len()].first(few);
        let moments = moments_post.first_mut(batch * MOMENTS);
        self.norm_post
            .forward(values, last, pooled.first_mut(few), moments);
        self.projection
            .forward(values, pooled.first(few), features, Onto::Replace);
    }

    /// Adds to the gradients of the weights, given that of the features and the patches that the
    /// forward pass saw; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        seen: &[u32],
        (dfeatures, reducer): (View<'_>, &mut dyn Reducer),
    ) {
        let batch = dfeatures.len() / self.projection.outputs();
        let few = batch * self.width;
        let saved = &self.saved;
        let Scratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let pooled = saved.pooled.first(few);
        let dpooled = narrow.first_mut(few);
        self.projection.backward(
            (values, gradients),
            pooled,
            dfeatures,
            dpooled,
            Onto::Replace,
        );

        let last = saved.tokens[self.blocks.len()].first(few);
        let inner = (last, saved.moments_post.first(batch * MOMENTS));
        let dpooled = narrow.first(few);
        let dlast = gradient.first_mut(few);
        self.norm_post
            .backward((values, gradients), inner, dpooled, dlast, Onto::Replace);
        reducer.reduce(gradients, self.parts.last());

        for layer in (0..self.blocks.len()).rev() {
            if self.shelf.overwritten(layer) {
                self.run(layer, values, batch);
            }

            let sequences = self.placed.on(Sequences::new(&self.offsets[..=batch]));
            let memory = (&*self.shelf.place(layer), &mut self.scratch);
            let x = self.saved.tokens[layer].view();
            self.blocks[layer].backward((values, gradients), sequences, x, memory);
            reducer.reduce(gradients, self.parts.range(1 + layer));
        }

        self.backward_embed((values, gradients), seen, batch);
        reducer.reduce(gradients, self.parts.range(0));
    }

    /// One block forward.
    fn run(&mut self, layer: usize, values: View<'_>, batch: usize) {
        let sequences = self.placed.on(Sequences::new(&self.offsets[..=batch]));
        let (before, after) = self.saved.tokens.split_at_mut(layer + 1);
        let memory = (self.shelf.place(layer), &mut self.scratch);
        let x = before[layer].view();
        let y = after[0].view_mut();

        self.blocks[layer].forward(values, sequences, x, y, memory);
    }

    fn embed(&mut self, values: View<'_>, (pixels, seen): (Pixels<'_>, &[u32]), batch: usize) {
        let rows = self.offsets[batch];
        let width = self.width;
        let all = rows * width;
        let cut = rows * self.patch_embedding.inputs();
        let Saved {
            patches,
            embedded,
            moments_pre,
            tokens,
            ..
        } = &mut self.saved;

        let seen = self.placed.numbers(seen);
        let pixels = self.plate.take(pixels);
        cut_patches(
            pixels,
            (self.side, self.patch),
            seen,
            patches.first_mut(cut),
        );

        let (class, places) = self.places.of(values).split_at(width);
        positions::forward((places, class), seen, batch, embedded.first_mut(all));
        // The class token's patch is zero, so the product leaves its row alone.
        let patches = patches.first(cut);
        let sum = embedded.first_mut(all);

        self.patch_embedding
            .forward(values, patches, sum, Onto::Add);
        let sum = embedded.first(all);
        let moments = moments_pre.first_mut(rows * MOMENTS);
        self.norm_pre
            .forward(values, sum, tokens[0].first_mut(all), moments);
    }

    fn backward_embed(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        seen: &[u32],
        batch: usize,
    ) {
        let rows = self.offsets[batch];
        let width = self.width;
        let all = rows * width;
        let cut = rows * self.patch_embedding.inputs();
        let saved = &self.saved;
        let Scratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let dy = gradient.first(all);
        let dx = narrow.first_mut(all);
        let inner = (
            saved.embedded.first(all),
            saved.moments_pre.first(rows * MOMENTS),
        );

        self.norm_pre
            .backward((values, gradients), inner, dy, dx, Onto::Replace);
        let dx = narrow.first(all);
        self.patch_embedding
            .backward_weights(gradients, saved.patches.first(cut), dx);
        let (class, places) = self.places.of(gradients.reborrow()).split_at(width);

        positions::backward((places, class), self.placed.numbers(seen), batch, dx);
    }
}
