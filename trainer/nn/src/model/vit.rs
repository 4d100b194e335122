//! The vision transformer: patches and a class token, pre-normalised blocks, the class token pooled.

mod block;

use block::VitBlock;
use cnclip_crds::model::VitConfig as Sizes;

use super::activation_store::ActivationStore;
use super::param_ranges::ParamRanges;
use super::scratch::TransformerScratch;
use super::sequence_buffers::SequenceBuffers;
use cnclip_compute::collective::GradientReducer;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::patchify::{PixelBatch, PixelBuffers, extract_patches};
use cnclip_compute::ops::position_embedding;
use cnclip_compute::ops::sequences::{Pooling, Sequences};
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// PyTorch's default.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// The image tower of all models but RN50.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, features [batch, features] out.
#[derive(Debug)]
pub struct VisionTransformer {
    side: usize,
    patch: usize,
    width: usize,
    patch_embedding: Linear,
    /// The class token, then the positions.
    token_embedding: Weight,
    norm_pre: LayerNorm,
    blocks: Vec<VitBlock>,
    norm_post: LayerNorm,
    projection: Linear,
    /// The embedding, each block, and what comes behind them.
    param_ranges: ParamRanges,
    offsets: Vec<usize>,
    /// The pictures, where they begin and which of their patches are seen, on a device.
    pixel_buffer: PixelBuffers,
    sequence_buffers: SequenceBuffers,
    activations: ActivationStore<block::VitBlockCache>,
    scratch: TransformerScratch,
    cache: VitCache,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct VitCache {
    patches: Tensor,
    embedded: Tensor,
    moments_pre: Tensor,
    /// What goes into each block, and what comes out of the last.
    tokens: Vec<Tensor>,
    moments_post: Tensor,
    pooled: Tensor,
}

impl VitCache {
    fn new(
        memory: &Memory,
        (batch, tokens): (usize, usize),
        (row, width): (usize, usize),
        layers: usize,
    ) -> Self {
        let rows = batch * tokens;
        Self {
            patches: memory.alloc_activations(rows * row),
            embedded: memory.alloc_activations(rows * width),
            moments_pre: memory.alloc_f32(rows * MOMENTS_PER_ROW),
            tokens: (0..=layers)
                .map(|_| memory.alloc_activations(rows * width))
                .collect(),
            moments_post: memory.alloc_f32(batch * MOMENTS_PER_ROW),
            pooled: memory.alloc_activations(batch * width),
        }
    }
}

impl VisionTransformer {
    /// Declares the tower's weights under `visual`, with memory for `batch` pictures; `recompute` has
    /// its blocks share some.
    pub fn declare_params(
        layout: &mut ParamLayout,
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
        let attention = Attention::for_memory(layout.memory(), heads, tokens, precision);
        let normal = ParamInit::Normal((width as f32).powf(-0.5));
        let mut parts = ParamRanges::starting_at_end(layout);

        let class = layout.register_weight("visual.class_embedding", &[width], normal);
        let positions =
            layout.register_weight("visual.positional_embedding", &[tokens, width], normal);
        let shape = [width, 3, patch, patch];
        let convolution = layout.register_weight(
            "visual.conv1.weight",
            &shape,
            ParamInit::uniform_fan_in(row),
        );
        let norm_pre =
            LayerNorm::declare_params(layout, "visual.ln_pre", width, LAYER_NORM_EPSILON);

        parts.close_range(layout);
        let block = |layer: usize| {
            let keep = if layer + 1 == layers {
                Pooling::FirstToken
            } else {
                Pooling::AllTokens
            };

            let block = VitBlock::declare_params(layout, layer, attention, keep);
            parts.close_range(layout);
            block
        };

        let blocks: Vec<_> = (0..layers).map(block).collect();
        let reserve = |block: &VitBlock| block.alloc_cache(&memory, (batch * tokens, batch));
        let norm_post =
            LayerNorm::declare_params(layout, "visual.ln_post", width, LAYER_NORM_EPSILON);
        let projection = layout.register_weight("visual.proj", &[width, features], normal);
        parts.close_range(layout);

        Self {
            side,
            patch,
            width,
            activations: ActivationStore::new(&blocks, recompute, reserve),
            patch_embedding: Linear::new(convolution, None, row),
            token_embedding: Weight::join_adjacent(&[class, positions]),
            norm_pre,
            blocks,
            norm_post,
            projection: Linear::new_projection(projection, width),
            param_ranges: parts,
            offsets: (0..=batch).map(|sample| sample * tokens).collect(),
            pixel_buffer: PixelBuffers::new(&memory, batch * 3 * side * side),
            sequence_buffers: SequenceBuffers::new(&memory, batch, batch * (tokens - 1)),
            scratch: TransformerScratch::new(&memory, batch * tokens, 4 * width, attention),
            cache: VitCache::new(&memory, (batch, tokens), (row, width), layers),
        }
    }

    /// Numbers in one picture.
    pub fn values_per_image(&self) -> usize {
        3 * self.side * self.side
    }

    /// Patches of one picture.
    pub fn patch_count(&self) -> usize {
        (self.side / self.patch).pow(2)
    }

    /// Writes the features of a batch, of which some patches are seen.
    ///
    /// # Shapes
    /// `seen` [batch, seen]
    pub fn forward(
        &mut self,
        values: TensorView<'_>,
        (pixels, seen): (PixelBatch<'_>, &[u32]),
        features: TensorViewMut<'_>,
    ) {
        let batch = pixels.len() / self.values_per_image();
        let tokens = 1 + seen.len() / batch;
        let offsets = self.offsets.iter_mut().enumerate();
        offsets.for_each(|(sample, offset)| *offset = sample * tokens);
        self.sequence_buffers
            .upload_batch(&self.offsets[..=batch], seen);
        self.embed_patches(values, (pixels, seen), batch);

        for layer in 0..self.blocks.len() {
            self.run_block(layer, values, batch);
        }

        let VitCache {
            tokens,
            moments_post,
            pooled,
            ..
        } = &mut self.cache;

        let few = batch * self.width;
        let last = tokens[self.blocks.len()].first_n(few);
        let moments = moments_post.first_n_mut(batch * MOMENTS_PER_ROW);
        self.norm_post
            .forward(values, last, pooled.first_n_mut(few), moments);
        self.projection
            .forward(values, pooled.first_n(few), features, Accumulate::No);
    }

    /// Adds to the gradients of the weights, given that of the features and the patches that the
    /// forward pass saw; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        seen: &[u32],
        (dfeatures, reducer): (TensorView<'_>, &mut dyn GradientReducer),
    ) {
        let batch = dfeatures.len() / self.projection.outputs();
        let few = batch * self.width;
        let saved = &self.cache;
        let TransformerScratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let pooled = saved.pooled.first_n(few);
        let dpooled = narrow.first_n_mut(few);
        self.projection.backward(
            (values, gradients),
            pooled,
            dfeatures,
            dpooled,
            Accumulate::No,
        );

        let last = saved.tokens[self.blocks.len()].first_n(few);
        let inner = (last, saved.moments_post.first_n(batch * MOMENTS_PER_ROW));
        let dpooled = narrow.first_n(few);
        let dlast = gradient.first_n_mut(few);
        self.norm_post
            .backward((values, gradients), inner, dpooled, dlast, Accumulate::No);
        reducer.reduce_gradients(gradients, self.param_ranges.last_range());

        for layer in (0..self.blocks.len()).rev() {
            if self.activations.is_overwritten(layer) {
                self.run_block(layer, values, batch);
            }

            let sequences = self
                .sequence_buffers
                .bind_sequences(Sequences::new(&self.offsets[..=batch]));
            let memory = (&*self.activations.cache_mut(layer), &mut self.scratch);
            let x = self.cache.tokens[layer].view();
            self.blocks[layer].backward((values, gradients), sequences, x, memory);
            reducer.reduce_gradients(gradients, self.param_ranges.part_range(1 + layer));
        }

        self.backward_embedding((values, gradients), seen, batch);
        reducer.reduce_gradients(gradients, self.param_ranges.part_range(0));
    }

    /// One block forward.
    fn run_block(&mut self, layer: usize, values: TensorView<'_>, batch: usize) {
        let sequences = self
            .sequence_buffers
            .bind_sequences(Sequences::new(&self.offsets[..=batch]));
        let (before, after) = self.cache.tokens.split_at_mut(layer + 1);
        let memory = (self.activations.cache_mut(layer), &mut self.scratch);
        let x = before[layer].view();
        let y = after[0].view_mut();

        self.blocks[layer].forward(values, sequences, x, y, memory);
    }

    fn embed_patches(
        &mut self,
        values: TensorView<'_>,
        (pixels, seen): (PixelBatch<'_>, &[u32]),
        batch: usize,
    ) {
        let rows = self.offsets[batch];
        let width = self.width;
        let all = rows * width;
        let cut = rows * self.patch_embedding.inputs();
        let VitCache {
            patches,
            embedded,
            moments_pre,
            tokens,
            ..
        } = &mut self.cache;

        let seen = self.sequence_buffers.bind_indices(seen);
        let pixels = self.pixel_buffer.upload_pixels(pixels);
        extract_patches(
            pixels,
            (self.side, self.patch),
            seen,
            patches.first_n_mut(cut),
        );

        let (class, places) = self.token_embedding.slice_of(values).split_at(width);
        position_embedding::forward((places, class), seen, batch, embedded.first_n_mut(all));
        // The class token's patch is zero, so the product leaves its row alone.
        let patches = patches.first_n(cut);
        let sum = embedded.first_n_mut(all);

        self.patch_embedding
            .forward(values, patches, sum, Accumulate::Yes);
        let sum = embedded.first_n(all);
        let moments = moments_pre.first_n_mut(rows * MOMENTS_PER_ROW);
        self.norm_pre
            .forward(values, sum, tokens[0].first_n_mut(all), moments);
    }

    fn backward_embedding(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        seen: &[u32],
        batch: usize,
    ) {
        let rows = self.offsets[batch];
        let width = self.width;
        let all = rows * width;
        let cut = rows * self.patch_embedding.inputs();
        let saved = &self.cache;
        let TransformerScratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let dy = gradient.first_n(all);
        let dx = narrow.first_n_mut(all);
        let inner = (
            saved.embedded.first_n(all),
            saved.moments_pre.first_n(rows * MOMENTS_PER_ROW),
        );

        self.norm_pre
            .backward((values, gradients), inner, dy, dx, Accumulate::No);
        let dx = narrow.first_n(all);
        self.patch_embedding
            .backward_weights(gradients, saved.patches.first_n(cut), dx);
        let (class, places) = self
            .token_embedding
            .slice_of(gradients.reborrow())
            .split_at(width);

        position_embedding::backward(
            (places, class),
            self.sequence_buffers.bind_indices(seen),
            batch,
            dx,
        );
    }
}
