//! Both towers and the temperature: pictures and captions in, unit features out. Knows neither the
//! loss nor the optimizer.

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::model::ModelConfig;
use cnclip_crds::stage::Precision;

use super::PackedTexts;
use super::bert::Bert;
use super::image_encoder::ImageEncoder;
use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::ops::adamw;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamInit, ParamLayout, Params, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// The logarithm of the temperature's inverse before training, ln(1 / 0.07).
const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// Its bounds: the reference clamps it after every step, to ln 100.
const LOGIT_SCALE_BOUNDS: (f32, f32) = (0.0, 4.6052);

/// The most that one forward pass is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchCapacity {
    /// Pictures, and captions.
    pub batch: usize,
    /// Tokens of one caption.
    pub context: usize,
}

/// What changes the way to the features and gradients, and not what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ComputeOptions {
    /// Whether a backward pass computes again what blocks would otherwise keep.
    pub recompute: bool,
    /// Number format of the operands of products.
    pub precision: Precision,
}

/// Pairs of a picture and a caption.
#[derive(Clone, Copy, Debug)]
pub struct ClipBatch<'a> {
    /// The pictures.
    pub pixels: PixelBatch<'a>,
    /// Their captions.
    pub texts: PackedTexts<'a>,
}

impl<'a> ClipBatch<'a> {
    /// Some of so many pairs; `offsets` is memory for where their captions begin.
    pub fn slice_samples<'b>(
        self,
        some: Range<usize>,
        pairs: usize,
        offsets: &'b mut Vec<usize>,
    ) -> ClipBatch<'b>
    where
        'a: 'b,
    {
        let picture = self.pixels.len() / pairs;
        let pixels = self.pixels.slice(some.start * picture..some.end * picture);
        ClipBatch {
            pixels,
            texts: self.texts.slice_texts(some, offsets),
        }
    }
}

/// The features of one tower, before and after they are made unit vectors.
#[derive(Debug)]
struct FeatureBuffers {
    width: usize,
    used_len: usize,
    raw: Tensor,
    unit: Tensor,
    gradient: Tensor,
}

impl FeatureBuffers {
    fn new(memory: &Memory, batch: usize, width: usize) -> Self {
        let size = batch * width;
        let raw = memory.alloc_f32(size);
        let unit = memory.alloc_f32(size);
        let gradient = memory.alloc_activations(size);

        Self {
            width,
            used_len: 0,
            raw,
            unit,
            gradient,
        }
    }

    /// Where a tower writes the features of so many samples.
    fn prepare_output(&mut self, count: usize) -> TensorViewMut<'_> {
        self.used_len = count * self.width;
        self.raw.first_n_mut(self.used_len)
    }

    fn normalize_rows(&mut self) -> TensorView<'_> {
        let raw = self.raw.first_n(self.used_len);
        l2_normalize::forward(self.width, raw, self.unit.first_n_mut(self.used_len));
        self.unit.first_n(self.used_len)
    }

    fn backward(&mut self, dunit: TensorView<'_>) -> TensorView<'_> {
        let raw = self.raw.first_n(self.used_len);
        let gradient = self.gradient.first_n_mut(self.used_len);
        l2_normalize::backward(self.width, raw, dunit, gradient);
        self.gradient.first_n(self.used_len)
    }
}

/// A Chinese-CLIP model: its structure and its working memory. The numbers are in [`Params`].
#[derive(Debug)]
pub struct Clip {
    image: ImageEncoder,
    text: Bert,
    logit_scale: Weight,
    image_features: FeatureBuffers,
    text_features: FeatureBuffers,
    image_frozen: bool,
}

impl Clip {
    /// The model, and the arrays for its numbers, all zero.
    pub fn new(config: &ModelConfig, capacity: BatchCapacity) -> (Self, Params) {
        Self::with_options(config, capacity, ComputeOptions::default())
    }

    /// The same in less memory: a backward pass computes again, block by block, what blocks would
    /// otherwise keep. A residual network keeps it all the same, as in the reference.
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

    /// The model, computing as it is told to.
    pub fn with_options(
        config: &ModelConfig,
        capacity: BatchCapacity,
        compute: ComputeOptions,
    ) -> (Self, Params) {
        Self::new_in(&Memory::Host, config, capacity, compute)
    }

    /// The same in some memory.
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

    /// The table of a model's numbers, without the numbers.
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
        BatchCapacity { batch, context }: BatchCapacity,
        recompute: bool,
    ) -> Self {
        let width = config.embed_dim as usize;
        let memory = layout.memory().clone();
        Self {
            image: ImageEncoder::declare_params(layout, &config.image, width, (batch, recompute)),
            text: Bert::declare_params(layout, &config.text, width, (batch, context, recompute)),
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
        params.freeze_matching(|name| frozen && name.starts_with("visual."));
    }

    /// From now on batch normalisation in training takes the statistics of all ranks' batches, not
    /// those of its own; nothing changes for a tower that has none.
    ///
    /// # Source
    /// The reference's `--use-bn-sync`.
    pub fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.image.synchronize_batch_norm(ranks);
    }

    /// Leaves out a share of each picture's patches from now on, in training alone. A residual
    /// network has none to leave out.
    pub fn mask_patches(&mut self, percent: u32) {
        self.image.mask_patches(percent);
    }

    /// Length of a feature.
    pub fn feature_width(&self) -> usize {
        self.image_features.width
    }

    /// The factor of the cosines in the loss; a device is waited for, which the loss does next anyway.
    pub fn logit_scale(&self, params: &Params) -> f32 {
        self.logit_scale.slice_of(params.values.view()).to_host()[0].exp()
    }

    /// Adds to the gradient of the factor's logarithm.
    pub fn add_logit_scale_gradient(&self, params: &mut Params, gradient: f32) {
        match self.logit_scale.slice_of(params.gradients.view_mut()) {
            TensorViewMut::Host(sum) => sum[0] += gradient,
            TensorViewMut::Device(mut sum) => adamw::gpu::add_scalar(&mut sum, gradient),
        }
    }

    /// Keeps the factor's logarithm in its bounds: to be called after every step.
    pub fn clamp_logit_scale(&self, params: &mut Params) {
        let (low, high) = LOGIT_SCALE_BOUNDS;
        match self.logit_scale.slice_of(params.values.view_mut()) {
            TensorViewMut::Host(value) => value[0] = value[0].clamp(low, high),
            TensorViewMut::Device(mut value) => {
                adamw::gpu::clamp_values(&mut value, LOGIT_SCALE_BOUNDS);
            }
        }
    }

    /// The unit features of pictures and captions, in training; kept for the backward pass.
    ///
    /// # Shapes
    /// Both [batch, features].
    pub fn forward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
    ) -> (TensorView<'_>, TensorView<'_>) {
        self.forward_images(params, batch.pixels, (!self.image_frozen, dropout));
        self.forward_texts(params, batch.texts, dropout);
        (
            self.image_features.normalize_rows(),
            self.text_features.normalize_rows(),
        )
    }

    /// Makes again what the backward pass needs of an earlier forward pass.
    pub fn recompute_forward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
    ) {
        if !self.image_frozen {
            self.forward_images(params, batch.pixels, (true, dropout));
        }
        self.forward_texts(params, batch.texts, dropout);
    }

    fn forward_images(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        training: (bool, Dropout),
    ) {
        let images = self
            .image_features
            .prepare_output(self.image.image_count(pixels));
        self.image.forward(params, pixels, training, images);
    }

    fn forward_texts(&mut self, params: &Params, texts: PackedTexts<'_>, dropout: Dropout) {
        let features = self.text_features.prepare_output(texts.text_count());
        self.text
            .forward(params.values.view(), texts, dropout, features);
    }

    /// Adds to the gradients of all weights that are not frozen, given the gradients of the unit
    /// features, and the batch and the dropout of the forward pass. What is done goes to `reducer`,
    /// and the gradient of the logit scale, which was added before.
    ///
    /// # Shapes
    /// Both [batch, features].
    pub fn backward(
        &mut self,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
        (dimages, dtexts): (TensorView<'_>, TensorView<'_>),
        reducer: &mut dyn GradientReducer,
    ) {
        if !self.image_frozen {
            self.image
                .backward(params, self.image_features.backward(dimages), reducer);
        }

        let values = params.values.view();
        let mut gradients = params.gradients.view_mut();
        let dtexts = self.text_features.backward(dtexts);
        self.text.backward(
            (values, &mut gradients),
            batch.texts,
            dropout,
            (dtexts, reducer),
        );

        reducer.reduce_gradients(&mut gradients, self.logit_scale.range());
    }

    /// The unit features of pictures, in evaluation.
    ///
    /// # Shapes
    /// [batch, features]
    pub fn encode_images(&mut self, params: &mut Params, pixels: PixelBatch<'_>) -> TensorView<'_> {
        self.forward_images(params, pixels, (false, Dropout::NONE));
        self.image_features.normalize_rows()
    }

    /// The unit features of captions, in evaluation.
    ///
    /// # Shapes
    /// [batch, features]
    pub fn encode_texts(&mut self, params: &Params, texts: PackedTexts<'_>) -> TensorView<'_> {
        self.forward_texts(params, texts, Dropout::NONE);
        self.text_features.normalize_rows()
    }
}
