//! The modified ResNet of CLIP: three stem convolutions, average pools in place of strides, and
//! attention in place of the last pool.

use candle_core::{D, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, VarBuilder, linear};
use cnclip_crds::model::ResnetConfig;

use crate::layers::{Attention, normal_weight};
use crate::{NamedOutput, TowerOutput};

/// Channels out of a bottleneck, in units of its inner ones.
const EXPANSION: usize = 4;

/// Width of a head of the attention pool.
const HEAD_WIDTH: usize = 64;

/// PyTorch's default.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Stem, four layers of bottlenecks, attention pool.
#[derive(Clone, Debug)]
pub(crate) struct ModifiedResnet {
    stem: Vec<ConvBatchNorm>,
    blocks: Vec<(String, Bottleneck)>,
    pool: AttentionPool,
}

impl ModifiedResnet {
    pub(crate) fn new(
        config: &ResnetConfig,
        resolution: usize,
        embed_dim: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let width = config.width as usize;
        let stem = build_stem(width, &vb)?;
        let mut inputs = width;
        let mut blocks = Vec::new();
        for (layer, &count) in config.layers.iter().enumerate() {
            let planes = width << layer;
            for block in 0..count as usize {
                // The first block of a layer halves the side, but for the first layer.
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", layer + 1);
                let bottleneck = Bottleneck::new(inputs, planes, stride, &vb.pp(&name))?;
                blocks.push((format!("visual.{name}"), bottleneck));
                inputs = EXPANSION * planes;
            }
        }

        // Five halvings: two in the stem, three in the layers.
        let positions = 1 + (resolution / 32).pow(2);
        let pool = AttentionPool::new(inputs, positions, embed_dim, vb.pp("attnpool"))?;
        Ok(Self { stem, blocks, pool })
    }

    /// In training, batch statistics normalize, and running statistics follow them.
    ///
    /// # Shapes
    /// `pixels` `[batch, 3, side, side]`, normalized.
    pub(crate) fn encode_images(&self, pixels: &Tensor, train: bool) -> Result<TowerOutput> {
        let mut x = pixels.clone();
        for unit in &self.stem {
            x = x.apply_t(unit, train)?.relu()?;
        }

        x = x.avg_pool2d(2)?;
        let mut outputs = vec![NamedOutput::new("visual.bn3", &x)];
        for (name, block) in &self.blocks {
            x = x.apply_t(block, train)?;
            outputs.push(NamedOutput::new(name, &x));
        }

        Ok(TowerOutput {
            features: x.apply(&self.pool)?,
            blocks: outputs,
        })
    }
}

/// Three convolutions, of which the first halves the side.
fn build_stem(width: usize, vb: &VarBuilder<'_>) -> Result<Vec<ConvBatchNorm>> {
    let unit = |number: usize, inputs, outputs, stride| {
        let shape = ConvShape {
            inputs,
            outputs,
            kernel: 3,
            stride,
        };

        let convolution = vb.pp(format!("conv{number}"));
        let norm = vb.pp(format!("bn{number}"));
        ConvBatchNorm::new(shape, convolution, norm)
    };

    let half = width / 2;
    Ok(vec![
        unit(1, 3, half, 2)?,
        unit(2, half, half, 1)?,
        unit(3, half, width, 1)?,
    ])
}

/// The sizes of a convolution whose padding keeps the side, but for the stride.
#[derive(Clone, Copy, Debug)]
struct ConvShape {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
}

/// A convolution without bias, then batch normalization.
#[derive(Clone, Debug)]
struct ConvBatchNorm {
    convolution: Conv2d,
    norm: BatchNorm,
}

impl ConvBatchNorm {
    fn new(shape: ConvShape, convolution: VarBuilder<'_>, norm: VarBuilder<'_>) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
        } = shape;

        let config = Conv2dConfig {
            padding: kernel / 2,
            stride,
            ..Conv2dConfig::default()
        };

        Ok(Self {
            convolution: candle_nn::conv2d_no_bias(inputs, outputs, kernel, config, convolution)?,
            norm: candle_nn::batch_norm(outputs, BATCH_NORM_EPSILON, norm)?,
        })
    }
}

impl ModuleT for ConvBatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        x.apply(&self.convolution)?.apply_t(&self.norm, train)
    }
}

/// `relu(unit_3(pool(unit_2(unit_1(x)))) + shortcut(pool(x)))`.
#[derive(Clone, Debug)]
struct Bottleneck {
    stride: usize,
    units: [ConvBatchNorm; 3],
    shortcut: Option<ConvBatchNorm>,
}

impl Bottleneck {
    fn new(inputs: usize, planes: usize, stride: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let outputs = EXPANSION * planes;
        // Every convolution has stride 1: an average pool halves the side.
        let unit = |inputs, outputs, kernel, convolution, norm| {
            let shape = ConvShape {
                inputs,
                outputs,
                kernel,
                stride: 1,
            };

            ConvBatchNorm::new(shape, vb.pp(convolution), vb.pp(norm))
        };

        let units = [
            unit(inputs, planes, 1, "conv1", "bn1")?,
            unit(planes, planes, 3, "conv2", "bn2")?,
            unit(planes, outputs, 1, "conv3", "bn3")?,
        ];

        // In the reference's state dict, `downsample.-1` is the pool before these two.
        let shortcut = (stride > 1 || inputs != outputs)
            .then(|| unit(inputs, outputs, 1, "downsample.0", "downsample.1"))
            .transpose()?;

        Ok(Self {
            stride,
            units,
            shortcut,
        })
    }

    /// Half the side where the block has stride 2.
    fn pool_to_stride(&self, x: &Tensor) -> Result<Tensor> {
        match self.stride {
            1 => Ok(x.clone()),
            stride => x.avg_pool2d(stride),
        }
    }

    fn apply_units(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [reduce, convolve, expand] = &self.units;
        let narrow = x
            .apply_t(reduce, train)?
            .relu()?
            .apply_t(convolve, train)?
            .relu()?;

        self.pool_to_stride(&narrow)?.apply_t(expand, train)
    }

    fn apply_shortcut(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match &self.shortcut {
            // Pooled first, in place of the strided convolution of other ResNets.
            Some(unit) => self.pool_to_stride(x)?.apply_t(unit, train),
            None => Ok(x.clone()),
        }
    }
}

impl ModuleT for Bottleneck {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let residual = self.apply_units(x, train)?;
        let shortcut = self.apply_shortcut(x, train)?;
        (residual + shortcut)?.relu()
    }
}

/// One attention layer whose only query is the mean of all positions.
#[derive(Clone, Debug)]
struct AttentionPool {
    position_embedding: Tensor,
    attention: Attention,
}

impl AttentionPool {
    fn new(width: usize, positions: usize, embed_dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let shape = [positions, width];
        let square = |name: &str| linear(width, width, vb.pp(name));
        let attention = Attention {
            heads: width / HEAD_WIDTH,
            query: square("q_proj")?,
            key: square("k_proj")?,
            value: square("v_proj")?,
            output: linear(width, embed_dim, vb.pp("c_proj"))?,
        };

        Ok(Self {
            position_embedding: normal_weight(&vb, &shape, "positional_embedding")?,
            attention,
        })
    }

    /// Tokens of an image: the mean of all positions, then each of them.
    ///
    /// # Shapes
    /// `x` `[batch, channels, side, side]`; `[batch, 1 + side², channels]` out.
    fn embed_positions(&self, x: &Tensor) -> Result<Tensor> {
        let positions = x.flatten_from(2)?;
        let mean = positions.mean_keepdim(D::Minus1)?;

        Tensor::cat(&[&mean, &positions], 2)?
            .transpose(1, 2)?
            .contiguous()?
            .broadcast_add(&self.position_embedding)
    }
}

impl Module for AttentionPool {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let tokens = self.embed_positions(x)?;
        let mean = tokens.narrow(1, 0, 1)?.contiguous()?;

        self.attention.attend_to(&mean, &tokens, None)?.squeeze(1)
    }
}
