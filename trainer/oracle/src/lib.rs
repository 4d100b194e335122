//! Chinese-CLIP in plain [candle](candle_core) operations, differentiated by candle's autograd.
//!
//! The trainer computes with forward and backward passes that are written out by hand, block by
//! block, with its own kernels. This crate is the same model a second time, written from its
//! definition alone: a few hundred lines without a single backward pass. Whatever the trainer
//! computes has to equal what is computed here: features, loss and every gradient.
//!
//! Parameters have the names of the reference's state dict (`visual.conv1.weight`,
//! `bert.embeddings.word_embeddings.weight`, `text_projection`, `logit_scale`), so a checkpoint of
//! the trainer loads as it is:
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use candle_nn::VarBuilder;
//! use cnclip_crds::model::Architecture;
//! use cnclip_oracle::ChineseClip;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Architecture::VitB16.published_model().ok_or("not a published model")?;
//! let weights = std::fs::read("checkpoint/model.safetensors")?;
//! let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
//! let model = ChineseClip::new(&config, vb)?;
//! # let _ = model;
//! # Ok(())
//! # }
//! ```
//!
//! There is no dropout: it draws random numbers, so two implementations are compared without.

mod bert;
mod layers;
mod parameters;
mod resnet;
mod vit;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder, loss};
use cnclip_crds::model::{ImageTower, ModelConfig, TextTower, VitConfig};

use bert::Bert;
pub use parameters::{first_adamw_step, gradients_by_name};
use resnet::ModifiedResnet;
use vit::VisionTransformer;

/// ln(1 / 0.07): the logit scale before training.
const INITIAL_LOGIT_SCALE: f64 = 2.659_26;

/// Mean of each color channel over OpenAI's training images, on a scale from 0 to 1.
const PIXEL_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Standard deviation of each color channel.
const PIXEL_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// An image tower, a text tower and the temperature.
///
/// # Source
/// `cn_clip/clip/model.py` of the reference.
#[derive(Clone, Debug)]
pub struct ChineseClip {
    image: ImageEncoder,
    text: Bert,
    logit_scale: Tensor,
}

#[derive(Clone, Debug)]
enum ImageEncoder {
    Vit(VisionTransformer),
    Resnet(ModifiedResnet),
}

/// What a tower computes of a batch.
#[derive(Clone, Debug)]
pub struct TowerOutput {
    /// Projected features, not yet normalized: `[batch, features]`.
    pub features: Tensor,
    /// The output of the embedding and of every block, in forward order.
    pub blocks: Vec<NamedOutput>,
}

/// What the embedding or a block of a tower computes.
#[derive(Clone, Debug)]
pub struct NamedOutput {
    /// What the names of its parameters begin with.
    pub name: String,
    /// # Shapes
    /// `[batch, tokens, width]` of a transformer, `[batch, channels, side, side]` of a ResNet.
    pub values: Tensor,
}

impl NamedOutput {
    fn new(name: &str, values: &Tensor) -> Self {
        Self {
            name: name.to_owned(),
            values: values.clone(),
        }
    }
}

/// What a training step computes before its backward pass.
#[derive(Clone, Debug)]
pub struct TrainingOutput {
    /// The image tower's output.
    pub image: TowerOutput,
    /// The text tower's output.
    pub text: TowerOutput,
    /// Unit vectors of the images: `[batch, features]`.
    pub image_features: Tensor,
    /// Unit vectors of the texts: `[batch, features]`.
    pub text_features: Tensor,
    /// The symmetric contrastive loss: a scalar.
    pub loss: Tensor,
}

impl ChineseClip {
    /// The model with the weights of `vb`.
    ///
    /// A `VarBuilder` over a [`candle_nn::VarMap`] creates random weights that can be trained:
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use cnclip_oracle::ChineseClip;
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// # let config = cnclip_oracle::tiny_config();
    /// let parameters = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
    /// let model = ChineseClip::new(&config, vb)?;
    ///
    /// let ids = Tensor::new(&[[2u32, 5, 6, 3], [2, 7, 3, 0]], &Device::Cpu)?;
    /// assert_eq!(model.encode_text(&ids)?.dims(), [2, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If `vb` lacks a tensor or has it in another shape.
    pub fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let embed_dim = config.embed_dim as usize;
        let scale = Init::Const(INITIAL_LOGIT_SCALE);
        Ok(Self {
            image: ImageEncoder::new(&config.image, embed_dim, vb.pp("visual"))?,
            // Without a prefix: `bert.` and `text_projection` are at the root of the state dict.
            text: Bert::new(&config.text, embed_dim, vb.clone())?,
            logit_scale: vb.get_with_hints((), "logit_scale", scale)?,
        })
    }

    /// Unit features of images, in evaluation: a ResNet normalizes by its running statistics.
    ///
    /// # Shapes
    /// `pixels` `[batch, 3, side, side]`, normalized; `[batch, features]` out.
    ///
    /// # Errors
    /// If the shapes do not fit the model.
    pub fn encode_image(&self, pixels: &Tensor) -> Result<Tensor> {
        let output = self.image.encode_images(pixels, false)?;
        normalize_l2(&output.features)
    }

    /// Unit features of texts.
    ///
    /// # Shapes
    /// `ids` u32 `[batch, tokens]`, padded by 0; `[batch, features]` out.
    ///
    /// # Errors
    /// If the shapes do not fit the model.
    pub fn encode_text(&self, ids: &Tensor) -> Result<Tensor> {
        let output = self.text.encode_texts(ids)?;
        normalize_l2(&output.features)
    }

    /// Cosine similarities times the logit scale, a row for each image.
    ///
    /// # Errors
    /// If the features differ in length.
    pub fn logits_per_image(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        let similarities = images.matmul(&texts.t()?)?;
        // The parameter is the logarithm of the scale, which keeps the scale positive.
        similarities.broadcast_mul(&self.logit_scale.exp()?)
    }

    /// Features and loss of a batch in which image `i` belongs to text `i`, in training: batch
    /// normalization takes the batch's statistics, and running statistics follow.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use cnclip_oracle::{ChineseClip, gradients_by_name};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// # let config = cnclip_oracle::tiny_config();
    /// let parameters = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
    /// let model = ChineseClip::new(&config, vb)?;
    ///
    /// let pixels = Tensor::randn(0f32, 1.0, (2, 3, 16, 16), &Device::Cpu)?;
    /// let ids = Tensor::new(&[[2u32, 5, 6, 3], [2, 7, 3, 0]], &Device::Cpu)?;
    /// let output = model.forward_train(&pixels, &ids)?;
    /// let gradients = gradients_by_name(&parameters, &output.loss)?;
    /// assert_eq!(gradients["visual.conv1.weight"].dims(), [16, 3, 8, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the shapes do not fit the model.
    pub fn forward_train(&self, pixels: &Tensor, ids: &Tensor) -> Result<TrainingOutput> {
        let image = self.image.encode_images(pixels, true)?;
        let text = self.text.encode_texts(ids)?;
        let image_features = normalize_l2(&image.features)?;
        let text_features = normalize_l2(&text.features)?;
        let logits = self.logits_per_image(&image_features, &text_features)?;
        let loss = symmetric_contrastive_loss(&logits)?;

        Ok(TrainingOutput {
            image,
            text,
            image_features,
            text_features,
            loss,
        })
    }
}

impl ImageEncoder {
    fn new(config: &ImageTower, embed_dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let resolution = config.resolution as usize;
        match (&config.vit, &config.resnet) {
            (Some(vit), None) => {
                VisionTransformer::new(vit, resolution, embed_dim, vb).map(Self::Vit)
            }
            (None, Some(resnet)) => {
                ModifiedResnet::new(resnet, resolution, embed_dim, vb).map(Self::Resnet)
            }
            _ => candle_core::bail!("an image tower must have exactly one of vit and resnet"),
        }
    }

    fn encode_images(&self, pixels: &Tensor, train: bool) -> Result<TowerOutput> {
        match self {
            Self::Vit(vit) => vit.encode_images(pixels),
            Self::Resnet(resnet) => resnet.encode_images(pixels, train),
        }
    }
}

/// Bytes of decoded images as the image tower takes them: each channel less its mean, in units of
/// its standard deviation.
///
/// # Shapes
/// `bytes` u8 `[batch, 3, side, side]`, RGB; f32 of the same shape out.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// let gray = Tensor::full(117u8, (1, 3, 2, 2), &Device::Cpu)?;
/// let pixels = cnclip_oracle::normalize_pixels(&gray)?;
/// let green = pixels.flatten_all()?.get(4)?.to_scalar::<f32>()?;
/// assert!((green - (117.0 / 255.0 - 0.4578275) / 0.26130258).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the shape is another.
pub fn normalize_pixels(bytes: &Tensor) -> Result<Tensor> {
    let scaled = (bytes.to_dtype(DType::F32)? / 255.0)?;
    let mean = per_channel(PIXEL_MEAN)?;
    let std = per_channel(PIXEL_STD)?;

    scaled.broadcast_sub(&mean)?.broadcast_div(&std)
}

/// A number for each color channel, to be broadcast over images.
fn per_channel(numbers: [f32; 3]) -> Result<Tensor> {
    Tensor::new(&numbers, &Device::Cpu)?.reshape((1, 3, 1, 1))
}

/// Rows as unit vectors.
fn normalize_l2(features: &Tensor) -> Result<Tensor> {
    // Without an epsilon, as the reference: a feature of zero would be an error, not a small vector.
    let norms = features.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;

    features.broadcast_div(&norms)
}

/// The mean of both cross-entropies, over rows and over columns, where row `i` belongs to column `i`.
fn symmetric_contrastive_loss(logits: &Tensor) -> Result<Tensor> {
    let pairs = logits.dim(0)? as u32;
    let targets = Tensor::arange(0u32, pairs, logits.device())?;
    // Only this rank's pairs: how ranks share a batch is not the model's concern.
    let logits_per_text = logits.t()?.contiguous()?;
    let by_image = loss::cross_entropy(logits, &targets)?;
    let by_text = loss::cross_entropy(&logits_per_text, &targets)?;

    (by_image + by_text)? / 2.0
}

/// The smallest model worth a name, for examples: two blocks for images of 16 by 16 pixels, one
/// layer for texts, features of 8 numbers.
pub fn tiny_config() -> ModelConfig {
    ModelConfig {
        embed_dim: 8,
        image: ImageTower {
            resolution: 16,
            vit: Some(VitConfig {
                layers: 2,
                width: 16,
                patch_size: 8,
                head_width: 8,
            }),
            resnet: None,
        },
        text: TextTower {
            vocab_size: 12,
            layers: 1,
            width: 12,
            heads: 2,
            intermediate: 24,
            positions: 8,
            hidden_dropout_percent: 0,
            attention_dropout_percent: 0,
        },
    }
}
