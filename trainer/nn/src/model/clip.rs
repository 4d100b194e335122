//! Both towers and the temperature: pictures and captions in, unit features out. Knows neither the
//! loss nor the optimizer.

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::model::ModelConfig;
use cnclip_crds::stage::Precision;

use super::Texts;
use super::bert::Bert;
use super::image_encoder::ImageEncoder;
use cnclip_compute::collective::{Ranks, Reducer};
use cnclip_compute::ops::adamw;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::normalize;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::{Init, Layout, Params, Weight};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

/// The logarithm of the temperature's inverse before training, ln(1 / 0.07).
const LOGIT_SCALE: f32 = 2.659_26;

/// Its bounds: the reference clamps it after every step, to ln 100.
const LOGIT_SCALE_BOUNDS: (f32, f32) = (0.0, 4.6052);

/// The most that one forward pass is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Pictures, and captions.
    pub batch: usize,
    /// Tokens of one caption.
    pub context: usize,
}

/// What changes the way to the features and gradients, and not what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compute {
    /// Whether a backward pass computes again what blocks would otherwise keep.
    pub recompute: bool,
    /// Number format of the operands of products.
    pub precision: Precision,
}

/// Pairs of a picture and a caption.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The pictures.
    pub pixels: Pixels<'a>,
    /// Their captions.
    pub texts: Texts<'a>,
}

impl<'a> Batch<'a> {
    /// Some of so many pairs; `offsets` is memory for where their captions begin.
    pub fn part<'b>(
        self,
        some: Range<usize>,
        pairs: usize,
        offsets: &'b mut Vec<usize>,
    ) -> Batch<'b>
    where
        'a: 'b,
    {
        let picture = self.pixels.len() / pairs;
        let pixels = self.pixels.part(some.start * picture..some.end * picture);
        Batch {
            pixels,
            texts: self.texts.part(some, offsets),
        }
    }
}

/// The features of one tower, before and after they are made unit vectors.
#[derive(Debug)]
struct Features {
    width: usize,
    used: usize,
    raw: Array,
    unit: Array,
    gradient: Array,
}

impl Features {
    fn new(memory: &Memory, batch: usize, width: usize) -> Self {
        let size = batch * width;
        let raw = memory.exact(size);
        let unit = memory.exact(size);
        let gradient = memory.array(size);

        Self {
            width,
            used: 0,
            raw,
            unit,
            gradient,
        }
    }

    /// Where a tower writes the features of so many samples.
    fn reserve(&mut self, count: usize) -> ViewMut<'_> {
        self.used = count * self.width;
        self.raw.first_mut(self.used)
    }

    fn normalize(&mut self) -> View<'_> {
        let raw = self.raw.first(self.used);
        normalize::forward(self.width, raw, self.unit.first_mut(self.used));
        self.unit.first(self.used)
    }

    fn backward(&mut self, dunit: View<'_>) -> View<'_> {
        let raw = self.raw.first(self.used);
        let gradient = self.gradient.first_mut(self.used);
        normalize::backward(self.width, raw, dunit, gradient);
        self.gradient.first(self.used)
    }
}

/// A Chinese-CLIP model: its structure and its working memory. The numbers are in [`Params`].
#[derive(Debug)]
pub struct Clip {
    image: ImageEncoder,
    text: Bert,
    logit_scale: Weight,
    image_features: Features,
    text_features: Features,
    image_frozen: bool,
}

impl Clip {
    /// The model, and the arrays for its numbers, all zero.
    pub fn new(config: &ModelConfig, capacity: Capacity) -> (Self, Params) {
        Self::computing(config, capacity, Compute::default())
    }

    /// The same in less memory: a backward pass computes again, block by block, what blocks would
    /// otherwise keep. A residual network keeps it all the same, as in the reference.
    ///
    /// # Guarantees
    /// The gradients are equal to the last bit.
    pub fn recomputing(config: &ModelConfig, capacity: Capacity) -> (Self, Params) {
        let compute = Compute {
            recompute: true,
            ..Compute::default()
        };

        Self::computing(config, capacity, compute)
    }

    /// The model, computing as it is told to.
    pub fn computing(config: &ModelConfig, capacity: Capacity, compute: Compute) -> (Self, Params) {
        Self::within(&Memory::Host, config, capacity, compute)
    }

    /// The same in some memory.
    pub fn within(
        memory: &Memory,
        config: &ModelConfig,
        capacity: Capacity,
        compute: Compute,
    ) -> (Self, Params) {
        let mut layout = Layout::new(compute.precision).within(memory);
        let clip = Self::declare(&mut layout, config, capacity, compute.recompute);
        (clip, layout.build())
    }

    /// The table of a model's numbers, without the numbers.
    pub fn layout(config: &ModelConfig) -> Layout {
        let mut layout = Layout::default();
        Self::declare(
            &mut layout,
            config,
            Capacity {
                batch: 0,
                context: 0,
            },
            true,
        );

        layout
    }

    fn declare(
        layout: &mut Layout,
        config: &ModelConfig,
        Capacity { batch, context }: Capacity,
        recompute: bool,
    ) -> Self {
        let width = config.embed_dim as usize;
        let memory = layout.memory().clone();
        Self {
            image: ImageEncoder::declare(layout, &config.image, width, (batch, recompute)),
            text: Bert::declare(layout, &config.text, width, (batch, context, recompute)),
            logit_scale: layout.weight("logit_scale", &[], Init::Constant(LOGIT_SCALE)),
            image_features: Features::new(&memory, batch, width),
            text_features: Features::new(&memory, batch, width),
            image_frozen: false,
        }
    }

    /// Freezes the image tower, projection included, or thaws it.
    pub fn freeze_image(&mut self, params: &mut Params, frozen: bool) {
        self.image_frozen = frozen;
        params.freeze(|name| frozen && name.starts_with("visual."));
    }

    /// From now on batch normalisation in training takes the statistics of all ranks' batches, not
    /// those of its own; nothing changes for a tower that has none.
    ///
    /// # Source
    /// The reference's `--use-bn-sync`.
    pub fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Ranks>) {
        self.image.synchronize_batch_norm(ranks);
    }

    /// Leaves out a share of each picture's patches from now on, in training alone. A residual
    /// network has none to leave out.
    pub fn mask_patches(&mut self, percent: u32) {
        self.image.mask_patches(percent);
    }

    /// Length of a feature.
    pub fn features(&self) -> usize {
        self.image_features.width
    }

    /// The factor of the cosines in the loss; a device is waited for, which the loss does next anyway.
    pub fn logit_scale(&self, params: &Params) -> f32 {
        self.logit_scale.of(params.values.view()).read()[0].exp()
    }

    /// Adds to the gradient of the factor's logarithm.
    pub fn add_logit_scale_gradient(&self, params: &mut Params, gradient: f32) {
        match self.logit_scale.of(params.gradients.view_mut()) {
            ViewMut::Host(sum) => sum[0] += gradient,
            ViewMut::Device(mut sum) => adamw::gpu::add(&mut sum, gradient),
        }
    }

    /// Keeps the factor's logarithm in its bounds: to be called after every step.
    pub fn clamp_logit_scale(&self, params: &mut Params) {
        let (low, high) = LOGIT_SCALE_BOUNDS;
        match self.logit_scale.of(params.values.view_mut()) {
            ViewMut::Host(value) => value[0] = value[0].clamp(low, high),
            ViewMut::Device(mut value) => {
                adamw::gpu::clamp(&mut value, LOGIT_SCALE_BOUNDS);
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
        batch: Batch<'_>,
        dropout: Dropout,
    ) -> (View<'_>, View<'_>) {
        self.forward_images(params, batch.pixels, (!self.image_frozen, dropout));
        self.forward_texts(params, batch.texts, dropout);
        (
            self.image_features.normalize(),
            self.text_features.normalize(),
        )
    }

    /// Makes again what the backward pass needs of an earlier forward pass.
    pub fn forward_again(&mut self, params: &mut Params, batch: Batch<'_>, dropout: Dropout) {
        if !self.image_frozen {
            self.forward_images(params, batch.pixels, (true, dropout));
        }
        self.forward_texts(params, batch.texts, dropout);
    }

    fn forward_images(
        &mut self,
        params: &mut Params,
        pixels: Pixels<'_>,
        training: (bool, Dropout),
    ) {
        let images = self.image_features.reserve(self.image.count(pixels));
        self.image.forward(params, pixels, training, images);
    }

    fn forward_texts(&mut self, params: &Params, texts: Texts<'_>, dropout: Dropout) {
        let features = self.text_features.reserve(texts.count());
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
        batch: Batch<'_>,
        dropout: Dropout,
        (dimages, dtexts): (View<'_>, View<'_>),
        reducer: &mut dyn Reducer,
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

        reducer.reduce(&mut gradients, self.logit_scale.range());
    }

    /// The unit features of pictures, in evaluation.
    ///
    /// # Shapes
    /// [batch, features]
    pub fn encode_images(&mut self, params: &mut Params, pixels: Pixels<'_>) -> View<'_> {
        self.forward_images(params, pixels, (false, Dropout::NONE));
        self.image_features.normalize()
    }

    /// The unit features of captions, in evaluation.
    ///
    /// # Shapes
    /// [batch, features]
    pub fn encode_texts(&mut self, params: &Params, texts: Texts<'_>) -> View<'_> {
        self.forward_texts(params, texts, Dropout::NONE);
        self.text_features.normalize()
    }
}
