//! The image tower of all models but RN50: a vision transformer over patches and a class token, of which
//! the class token is pooled and projected.

mod block;
mod cache;
mod shape;

use cnclip_compute::collective::GradientReducer;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, LayerNormCache, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::patch_dropout::PatchDropout;
use cnclip_compute::ops::patchify::{PixelBatch, PixelBuffers, extract_patches};
use cnclip_compute::ops::position_embedding;
use cnclip_compute::ops::sequences::Sequences;
use cnclip_compute::params::{ParamInit, ParamLayout, Params, Weight};
use cnclip_compute::tensor::{TensorView, TensorViewMut};
use cnclip_crds::model::VitConfig;

use super::param_ranges::ParamRanges;
use super::sequence_buffers::SequenceBuffers;
use super::transformer::{LayerDropouts, StackShape, TransformerScratch, TransformerStack};
use super::{BlockOutput, FlatParams, ImageEncoder, TowerCapacity};
use block::VitBlock;
use cache::VitCache;
use shape::VitShape;

/// PyTorch's default.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// Width of the feed-forward network, in units of the tower's.
const HIDDEN_RATIO: usize = 4;

/// The image tower of all models but RN50.
///
/// # Shapes
/// Pixels `[batch, 3, side, side]` in, features `[batch, features]` out.
#[derive(Debug)]
pub struct VisionTransformer {
    side: usize,
    patch: usize,
    width: usize,
    patch_embedding: Linear,
    /// The class token, then the positions.
    token_embedding: Weight,
    /// CLIP's own: other vision transformers have no norm before their first block.
    norm_pre: LayerNorm,
    stack: TransformerStack<VitBlock>,
    norm_post: LayerNorm,
    projection: Linear,
    /// The embedding, each block, and the norm and the projection behind them.
    param_ranges: ParamRanges,
    /// Which patches of each image are visible.
    patches: PatchDropout,
    /// Where the tokens of each image begin.
    offsets: Vec<usize>,
    /// The images, on a device.
    pixel_buffer: PixelBuffers,
    /// Where images begin and which of their patches are visible, on a device.
    sequence_buffers: SequenceBuffers,
    cache: VitCache,
}

impl VisionTransformer {
    /// Declares the tower's weights under `visual`, with memory for a batch of images.
    pub fn declare_params(
        layout: &mut ParamLayout,
        config: &VitConfig,
        side: usize,
        features: usize,
        capacity: TowerCapacity,
    ) -> Self {
        let batch = capacity.batch;
        let shape = VitShape::new(config, side);
        let VitShape { patch, width, .. } = shape;
        let tokens = shape.tokens_per_image();
        let patch_len = shape.values_per_patch();

        let memory = layout.memory().clone();
        let precision = layout.precision();
        let attention = Attention::for_memory(&memory, shape.heads, width, tokens, precision);
        let stack_shape = StackShape {
            layers: shape.layers,
            attention,
            hidden: HIDDEN_RATIO * width,
            capacity,
        };

        // The order of declarations is the order of the tensors in the flat arrays.
        let mut param_ranges = ParamRanges::starting_at_end(layout);
        let normal = ParamInit::Normal((width as f32).powf(-0.5));
        let class = layout.register_weight("visual.class_embedding", &[width], normal);
        let positions =
            layout.register_weight("visual.positional_embedding", &[tokens, width], normal);
        let convolution = layout.register_weight(
            "visual.conv1.weight",
            &[width, 3, patch, patch],
            ParamInit::uniform_fan_in(patch_len),
        );

        let norm_pre =
            LayerNorm::declare_params(layout, "visual.ln_pre", width, LAYER_NORM_EPSILON);
        param_ranges.close_range(layout);

        let stack = TransformerStack::declare_layers(
            layout,
            &mut param_ranges,
            stack_shape,
            |layout, index, pooling| VitBlock::declare_params(layout, index, attention, pooling),
        );

        let norm_post =
            LayerNorm::declare_params(layout, "visual.ln_post", width, LAYER_NORM_EPSILON);
        let projection = layout.register_weight("visual.proj", &[width, features], normal);
        param_ranges.close_range(layout);

        Self {
            side,
            patch,
            width,
            // A convolution whose stride is its size is a matrix product over patches.
            patch_embedding: Linear::new(convolution, None, patch_len),
            token_embedding: Weight::join_adjacent(&[class, positions]),
            norm_pre,
            stack,
            norm_post,
            projection: Linear::new_projection(projection, width),
            param_ranges,
            patches: PatchDropout::new(batch, tokens - 1),
            offsets: (0..=batch).map(|sample| sample * tokens).collect(),
            pixel_buffer: PixelBuffers::new(&memory, batch * 3 * side * side),
            sequence_buffers: SequenceBuffers::new(&memory, batch, batch * (tokens - 1)),
            cache: VitCache::new(&memory, &shape, batch),
        }
    }

    /// Writes the features of a batch whose visible patches the caller chooses.
    ///
    /// # Shapes
    /// `visible_patches` `[batch, visible patches of an image]`
    pub fn forward_visible(
        &mut self,
        values: TensorView<'_>,
        pixels: PixelBatch<'_>,
        visible_patches: &[u32],
        features: TensorViewMut<'_>,
    ) {
        self.patches.set_visible_patches(visible_patches);
        self.forward_patches(values, pixels, features);
    }
}

impl ImageEncoder for VisionTransformer {
    fn values_per_image(&self) -> usize {
        3 * self.side * self.side
    }

    fn block_outputs(&self, batch: usize) -> Vec<BlockOutput<'_>> {
        let token_values = self.offsets[batch] * self.width;
        let blocks = "visual.transformer.resblocks";
        self.stack
            .block_outputs(token_values, batch * self.width, "visual.ln_pre", blocks)
    }

    fn forward(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        _training: bool,
        dropout: Dropout,
        features: TensorViewMut<'_>,
    ) {
        let batch = pixels.len() / self.values_per_image();
        // Without dropout, all of them.
        self.patches.sample_patches(batch, dropout);
        self.forward_patches(params.values.view(), pixels, features);
    }

    fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        let batch = dfeatures.len() / self.projection.outputs();
        self.backward_projection(params, batch, dfeatures);
        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.last_range());

        let sequences = Sequences::new(&self.offsets[..=batch]);
        let sequences = self.sequence_buffers.bind_sequences(sequences);
        self.stack.backward(
            params,
            sequences,
            |_| LayerDropouts::NONE,
            &self.param_ranges,
            reducer,
        );

        self.backward_embedding(params, batch);
        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.part_range(0));
    }

    fn mask_patches(&mut self, percent: u32) {
        self.patches.set_masked_percent(percent);
    }
}

impl VisionTransformer {
    fn forward_patches(
        &mut self,
        values: TensorView<'_>,
        pixels: PixelBatch<'_>,
        features: TensorViewMut<'_>,
    ) {
        let batch = pixels.len() / self.values_per_image();
        // Masked patches are left out of the sequence rather than zeroed: they cost nothing.
        let visible_patches = self.patches.visible_patches();
        let tokens = 1 + visible_patches.len() / batch;
        for (sample, offset) in self.offsets.iter_mut().enumerate() {
            *offset = sample * tokens;
        }

        let offsets = &self.offsets[..=batch];
        self.sequence_buffers.upload_batch(offsets, visible_patches);
        self.embed_patches(values, pixels, batch);

        // Images all have as many tokens, but the stack is that of texts and takes packed sequences.
        let sequences = Sequences::new(&self.offsets[..=batch]);
        let sequences = self.sequence_buffers.bind_sequences(sequences);
        self.stack
            .forward(values, sequences, |_| LayerDropouts::NONE);

        self.project_pooled(values, batch, features);
    }

    /// Writes the input of the first block: patches and the class token with their positions, normalised.
    fn embed_patches(&mut self, values: TensorView<'_>, pixels: PixelBatch<'_>, batch: usize) {
        let tokens = self.offsets[batch];
        let width = self.width;
        let len = tokens * width;
        let patches_len = tokens * self.patch_embedding.inputs();
        let VitCache {
            patches,
            embedded,
            moments_pre,
            ..
        } = &mut self.cache;

        // In the order of the sequence: class token, then visible patches. Positions are added by the index of a
        // patch in the whole image, so masked images keep their geometry.
        let visible_patches = self.patches.visible_patches();
        let visible_patches = self.sequence_buffers.bind_indices(visible_patches);
        extract_patches(
            self.pixel_buffer.upload_pixels(pixels),
            self.side,
            self.patch,
            visible_patches,
            patches.first_n_mut(patches_len),
        );

        let (class, positions) = self.token_embedding.slice_of(values).split_at(width);
        position_embedding::forward(
            positions,
            class,
            visible_patches,
            batch,
            embedded.first_n_mut(len),
        );

        // The class token's patch is zero, so the product leaves its row alone.
        self.patch_embedding.forward(
            values,
            patches.first_n(patches_len),
            embedded.first_n_mut(len),
            Accumulate::Yes,
        );

        self.norm_pre.forward(
            values,
            embedded.first_n(len),
            self.stack.layer_inputs[0].first_n_mut(len),
            moments_pre.first_n_mut(tokens * MOMENTS_PER_ROW),
        );
    }

    /// Writes the features, given the class tokens that the last block put out.
    fn project_pooled(
        &mut self,
        values: TensorView<'_>,
        batch: usize,
        features: TensorViewMut<'_>,
    ) {
        let VitCache {
            moments_post,
            pooled,
            ..
        } = &mut self.cache;

        let pooled_len = batch * self.width;
        self.norm_post.forward(
            values,
            self.stack.output.first_n(pooled_len),
            pooled.first_n_mut(pooled_len),
            moments_post.first_n_mut(batch * MOMENTS_PER_ROW),
        );

        self.projection
            .forward(values, pooled.first_n(pooled_len), features, Accumulate::No);
    }

    /// From the gradient of the features to that of the last block's output in `scratch.gradient`.
    fn backward_projection(
        &mut self,
        params: &mut FlatParams<'_>,
        batch: usize,
        dfeatures: TensorView<'_>,
    ) {
        let pooled_len = batch * self.width;
        let TransformerScratch {
            gradient, branch, ..
        } = &mut self.stack.scratch;

        self.projection.backward(
            params.values,
            &mut params.gradients,
            self.cache.pooled.first_n(pooled_len),
            dfeatures,
            branch.first_n_mut(pooled_len),
            Accumulate::No,
        );

        let output = self.stack.output.first_n(pooled_len);
        let moments = self.cache.moments_post.first_n(batch * MOMENTS_PER_ROW);
        self.norm_post.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache { x: output, moments },
            branch.first_n(pooled_len),
            gradient.first_n_mut(pooled_len),
            Accumulate::No,
        );
    }

    /// From the gradient of the first block's input in `scratch.gradient` to those of the embeddings.
    fn backward_embedding(&mut self, params: &mut FlatParams<'_>, batch: usize) {
        let tokens = self.offsets[batch];
        let width = self.width;
        let len = tokens * width;
        let patches_len = tokens * self.patch_embedding.inputs();
        let TransformerScratch {
            gradient, branch, ..
        } = &mut self.stack.scratch;

        let embedded = self.cache.embedded.first_n(len);
        let moments = self.cache.moments_pre.first_n(tokens * MOMENTS_PER_ROW);
        self.norm_pre.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache {
                x: embedded,
                moments,
            },
            gradient.first_n(len),
            branch.first_n_mut(len),
            Accumulate::No,
        );

        // Pixels need no gradient.
        let dembedded = branch.first_n(len);
        let patches = self.cache.patches.first_n(patches_len);
        self.patch_embedding
            .backward_weights(&mut params.gradients, patches, dembedded);

        let gradients = params.gradients.reborrow();
        let (class, positions) = self.token_embedding.slice_of(gradients).split_at(width);
        position_embedding::backward(
            positions,
            class,
            self.sequence_buffers
                .bind_indices(self.patches.visible_patches()),
            batch,
            dembedded,
        );
    }
}
