//! Both towers and the temperature: images and texts in, unit features out. Knows neither the loss nor the
//! optimizer.

use std::ops::Range;
use std::sync::Arc;

use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::ops::adamw;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamInit, ParamLayout, Params, Weight};
use cnclip_compute::tensor::{Memory, TensorView};
use cnclip_crds::model::ModelConfig;
use cnclip_crds::stage::Precision;

use super::feature_buffers::FeatureBuffers;
use super::towers::bert::Bert;
use super::towers::{BlockOutput, FlatParams, ImageEncoder, TowerCapacity};
use super::{ImageTextFeatures, PackedTexts, towers};

/// The logarithm of the temperature's inverse before training, ln(1 / 0.07).
const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// Its bounds. Without the upper one, ln 100, training can raise the scale until the logits saturate the
/// softmax and gradients vanish; the paper of CLIP found the bound necessary. The reference clamps after
/// every step, to the same digits.
const LOGIT_SCALE_BOUNDS: (f32, f32) = (0.0, 4.6052);

/// The most that one forward pass is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchCapacity {
    /// Images, and texts.
    pub batch: usize,
    /// Tokens of one text.
    pub context: usize,
}

/// How features and gradients are computed: trades memory and precision for speed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ComputeOptions {
    /// Whether the backward pass recomputes activations that layers would otherwise keep.
    pub recompute: bool,
    /// Number format of the operands of matrix products.
    pub precision: Precision,
}

/// Samples of an image and a text.
#[derive(Clone, Copy, Debug)]
pub struct ClipBatch<'a> {
    /// The images.
    pub pixels: PixelBatch<'a>,
    /// Their texts.
    pub texts: PackedTexts<'a>,
}

impl<'a> ClipBatch<'a> {
    /// Some of the batch's `batch_size` samples; `offsets` is memory for where their texts begin.
    pub fn slice_samples<'b>(
        self,
        samples: Range<usize>,
        batch_size: usize,
        offsets: &'b mut Vec<usize>,
    ) -> ClipBatch<'b>
    where
        'a: 'b,
    {
        let image_len = self.pixels.len() / batch_size;
        let pixel_range = samples.start * image_len..samples.end * image_len;
        ClipBatch {
            pixels: self.pixels.slice(pixel_range),
            texts: self.texts.slice_texts(samples, offsets),
        }
    }
}

/// A Chinese-CLIP model: its structure and its working memory. The numbers are in [`Params`].
#[derive(Debug)]
pub struct Clip {
    image: Box<dyn ImageEncoder>,
    text: Bert,
    logit_scale: Weight,
    image_features: FeatureBuffers,
    text_features: FeatureBuffers,
    image_frozen: bool,
}

impl Clip {
    /// The model, and its parameters, all zero.
    ///
    /// ```
    /// use cnclip_compute::ops::patchify::PixelBatch;
    /// use cnclip_crds::model::{ImageTower, ModelConfig, TextTower, VitConfig};
    /// use cnclip_nn::model::clip::{BatchCapacity, Clip};
    ///
    /// let config = ModelConfig {
    ///     embed_dim: 8,
    ///     image: ImageTower {
    ///         resolution: 32,
    ///         vit: Some(VitConfig {
    ///             width: 16,
    ///             layers: 1,
    ///             head_width: 8,
    ///             patch_size: 16,
    ///         }),
    ///         resnet: None,
    ///     },
    ///     text: TextTower {
    ///         width: 16,
    ///         heads: 2,
    ///         layers: 1,
    ///         intermediate: 32,
    ///         positions: 16,
    ///         vocab_size: 100,
    ///         hidden_dropout_percent: 0,
    ///         attention_dropout_percent: 0,
    ///     },
    /// };
    ///
    /// let capacity = BatchCapacity {
    ///     batch: 2,
    ///     context: 16,
    /// };
    ///
    /// let (mut clip, mut params) = Clip::new(&config, capacity);
    /// params.init_values(1);
    ///
    /// let images = vec![128; 2 * 3 * 32 * 32];
    /// let features = clip.encode_images(&mut params, PixelBatch::Bytes(&images));
    /// assert_eq!(features.len(), 2 * 8);
    /// ```
    pub fn new(config: &ModelConfig, capacity: BatchCapacity) -> (Self, Params) {
        Self::with_options(config, capacity, ComputeOptions::default())
    }

    /// The same in less memory: the backward pass recomputes, layer by layer, the activations that layers
    /// would otherwise keep. A ResNet keeps them all the same, as in the reference.
    ///
    /// # Guarantees
    /// The gradients are equal to the last bit.
    pub fn with_recompute(config: &ModelConfig, capacity: BatchCapacity) -> (Self, Params) {
        let compute = ComputeOptions {
            recompute: true,
            ..ComputeOptions::default()
        };

        Self::with_options(config, capacity, compute)
    }

    /// The model with compute options.
    pub fn with_options(
        config: &ModelConfig,
        capacity: BatchCapacity,
        compute: ComputeOptions,
    ) -> (Self, Params) {
        Self::new_in(&Memory::Host, config, capacity, compute)
    }

    /// The same in host memory or on a device.
    pub fn new_in(
        memory: &Memory,
        config: &ModelConfig,
        capacity: BatchCapacity,
        compute: ComputeOptions,
    ) -> (Self, Params) {
        let mut layout = ParamLayout::new(compute.precision).with_memory(memory);
        let clip = Self::declare_params(&mut layout, config, capacity, compute.recompute);
        (clip, layout.allocate_params())
    }

    /// The layout of a model's parameters, without memory for them.
    pub fn param_layout(config: &ModelConfig) -> ParamLayout {
        let mut layout = ParamLayout::default();
        Self::declare_params(
            &mut layout,
            config,
            BatchCapacity {
                batch: 0,
                context: 0,
            },
            true,
        );

        layout
    }

    fn declare_params(
        layout: &mut ParamLayout,
        config: &ModelConfig,
        max_batch: BatchCapacity,
        recompute: bool,
    ) -> Self {
        let BatchCapacity { batch, context } = max_batch;
        let width = config.embed_dim as usize;
        let memory = layout.memory().clone();
        let capacity = TowerCapacity { batch, recompute };
        Self {
            image: towers::declare_image_encoder(layout, &config.image, width, capacity),
            text: Bert::declare_params(layout, &config.text, width, context, capacity),
            logit_scale: layout.register_weight(
                "logit_scale",
                &[],
                ParamInit::Constant(INITIAL_LOGIT_SCALE),
            ),
            image_features: FeatureBuffers::new(&memory, batch, width),
            text_features: FeatureBuffers::new(&memory, batch, width),
            image_frozen: false,
        }
    }

    /// Freezes the image tower, projection included, or thaws it.
    pub fn freeze_image(&mut self, params: &mut Params, frozen: bool) {
        self.image_frozen = frozen;
        // By the prefix of its names in the state dict; the text tower's projection and the logit scale train on.
        params.freeze_matching(|name| frozen && name.starts_with("visual."));
    }

    /// From now on batch normalisation in training takes the statistics of all ranks' batches instead of
    /// this rank's; nothing changes for a tower that has none.
    ///
    /// # Source
    /// The reference's `--use-bn-sync`.
    pub fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.image.synchronize_batch_norm(ranks);
    }

    /// Leaves out a share of each image's patches from now on, in training alone. A ResNet has none to
    /// leave out.
    ///
    /// # Source
    /// FLIP, "Scaling Language-Image Pre-training via Masking" (Li and others, 2023).
    pub fn mask_patches(&mut self, percent: u32) {
        self.image.mask_patches(percent);
    }

    /// Length of a feature.
    pub fn feature_width(&self) -> usize {
        self.image_features.width
    }

    /// The factor of the cosines in the loss. Waits for the device, which the loss does next anyway.
    pub fn logit_scale(&self, params: &Params) -> f32 {
        self.logit_scale.slice_of(params.values.view()).to_host()[0].exp()
    }

    /// Adds to the gradient of the logit scale's logarithm.
    pub fn add_logit_scale_gradient(&self, params: &mut Params, gradient: f32) {
        let gradients = params.gradients.view_mut();
        adamw::add_scalar(self.logit_scale.slice_of(gradients), gradient);
    }

    /// Clamps the logit scale's logarithm to its bounds: to be called after every optimizer step.
    pub fn clamp_logit_scale(&self, params: &mut Params) {
        // In place, wherever it lies: downloading one value would stall the device.
        let (low, high) = LOGIT_SCALE_BOUNDS;
        let values = params.values.view_mut();
        adamw::clamp_values(self.logit_scale.slice_of(values), low, high);
    }

    /// The unit features of images and texts, in training; activations are kept for the backward pass.
    pub fn forward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
    ) -> ImageTextFeatures<'_> {
        // A frozen tower computes as in evaluation: its running statistics must not move either.
        let training = !self.image_frozen;
        self.forward_images(params, batch.pixels, training, dropout);
        self.forward_texts(params, batch.texts, dropout);
        ImageTextFeatures {
            images: self.image_features.normalize_rows(),
            texts: self.text_features.normalize_rows(),
        }
    }

    /// What every block of both towers put out in the last forward pass, which was given `batch`: the
    /// image tower in forward order, then the text tower.
    pub fn block_outputs(&self, batch: ClipBatch<'_>) -> Vec<BlockOutput<'_>> {
        let images = batch.pixels.len() / self.image.values_per_image();
        let mut outputs = self.image.block_outputs(images);
        outputs.extend(self.text.block_outputs(batch.texts));
        outputs
    }

    /// Recomputes the activations of an earlier forward pass for its backward pass.
    pub fn recompute_forward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
    ) {
        if !self.image_frozen {
            self.forward_images(params, batch.pixels, true, dropout);
        }

        self.forward_texts(params, batch.texts, dropout);
    }

    fn forward_images(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        training: bool,
        dropout: Dropout,
    ) {
        let count = pixels.len() / self.image.values_per_image();
        let features = self.image_features.prepare_output(count);
        self.image
            .forward(params, pixels, training, dropout, features);
    }

    fn forward_texts(&mut self, params: &Params, texts: PackedTexts<'_>, dropout: Dropout) {
        let features = self.text_features.prepare_output(texts.text_count());
        self.text
            .forward(params.values.view(), texts, dropout, features);
    }

    /// Adds to the gradients of all weights that are not frozen, given the gradients of the unit
    /// features, and the batch and the dropout of the forward pass. Complete parts go to `reducer`, and so
    /// does the gradient of the logit scale, which was added before.
    pub fn backward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
        dfeatures: ImageTextFeatures<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        let flat_params = &mut FlatParams {
            values: params.values.view(),
            gradients: params.gradients.view_mut(),
        };

        // Every rank hands over the same ranges in the same order: that pairs them in the all-reduce.
        // A frozen tower has no gradient at all, which saves two thirds of its time.
        if !self.image_frozen {
            let dimages = self.image_features.backward(dfeatures.images);
            self.image.backward(flat_params, dimages, reducer);
        }

        // The logit scale comes last: its gradient, from the loss, has been complete from the start.
        let dtexts = self.text_features.backward(dfeatures.texts);
        self.text
            .backward(flat_params, batch.texts, dropout, dtexts, reducer);

        reducer.reduce_gradients(&mut flat_params.gradients, self.logit_scale.range());
    }

    /// The unit features of images, in evaluation.
    ///
    /// # Shapes
    /// `[batch, features]`
    pub fn encode_images(&mut self, params: &mut Params, pixels: PixelBatch<'_>) -> TensorView<'_> {
        self.forward_images(params, pixels, false, Dropout::NONE);
        self.image_features.normalize_rows()
    }

    /// The unit features of texts, in evaluation.
    ///
    /// # Shapes
    /// `[batch, features]`
    pub fn encode_texts(&mut self, params: &Params, texts: PackedTexts<'_>) -> TensorView<'_> {
        // Without dropout a forward pass is the same in training and in evaluation.
        self.forward_texts(params, texts, Dropout::NONE);
        self.text_features.normalize_rows()
    }
}
