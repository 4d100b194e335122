//! The modified ResNet of CLIP: three stem convolutions, average pools in place of strides, and
//! attention in place of the last pool.

use candle_core::{D, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, VarBuilder};
use cnclip_crds::model::ResnetConfig;

use crate::TowerOutput;
use crate::layers::{multi_head_attention, normal_weight};

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
        let stem_unit = |number: usize, inputs, outputs, stride| {
            let shape = ConvShape {
                inputs,
                outputs,
                kernel: 3,
                stride,
            };

            let convolution = vb.pp(format!("conv{number}"));
            ConvBatchNorm::new(shape, convolution, vb.pp(format!("bn{number}")))
        };

        let stem = vec![
            stem_unit(1, 3, width / 2, 2)?,
            stem_unit(2, width / 2, width / 2, 1)?,
            stem_unit(3, width / 2, width, 1)?,
        ];

        let mut inputs = width;
        let mut blocks = Vec::new();
        for (layer, &count) in config.layers.iter().enumerate() {
            for block in 0..count as usize {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let planes = width << layer;
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
    pub(crate) fn forward(&self, pixels: &Tensor, train: bool) -> Result<TowerOutput> {
        let mut x = pixels.clone();
        for unit in &self.stem {
            x = unit.forward(&x, train)?.relu()?;
        }

        x = x.avg_pool2d(2)?;
        let mut outputs = vec![("visual.bn3".to_owned(), x.clone())];
        for (name, block) in &self.blocks {
            x = block.forward(&x, train)?;
            outputs.push((name.clone(), x.clone()));
        }

        Ok(TowerOutput {
            features: self.pool.forward(&x)?,
            blocks: outputs,
        })
    }
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

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.norm.forward_t(&self.convolution.forward(x)?, train)
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

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let pool = |x: Tensor| match self.stride {
            1 => Ok(x),
            stride => x.avg_pool2d(stride),
        };

        let y = self.units[0].forward(x, train)?.relu()?;
        let y = self.units[1].forward(&y, train)?.relu()?;
        let y = self.units[2].forward(&pool(y)?, train)?;
        let shortcut = match &self.shortcut {
            // Pooled first: CLIP replaces the strided convolution of a shortcut by a pool before
            // it.
            Some(unit) => unit.forward(&pool(x.clone())?, train)?,
            None => x.clone(),
        };

        (y + shortcut)?.relu()
    }
}

/// One attention layer whose only query is the mean of all positions.
#[derive(Clone, Debug)]
struct AttentionPool {
    heads: usize,
    position_embedding: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl AttentionPool {
    fn new(width: usize, positions: usize, embed_dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let shape = [positions, width];
        Ok(Self {
            heads: width / HEAD_WIDTH,
            position_embedding: normal_weight(&vb, &shape, "positional_embedding")?,
            query: candle_nn::linear(width, width, vb.pp("q_proj"))?,
            key: candle_nn::linear(width, width, vb.pp("k_proj"))?,
            value: candle_nn::linear(width, width, vb.pp("v_proj"))?,
            output: candle_nn::linear(width, embed_dim, vb.pp("c_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let places = x.flatten_from(2)?;
        let mean = places.mean_keepdim(D::Minus1)?;
        let tokens = Tensor::cat(&[&mean, &places], 2)?;
        // Channels first to tokens: the mean is token 0, and has a learned position too.
        let tokens = tokens.transpose(1, 2)?.contiguous()?;
        let tokens = tokens.broadcast_add(&self.position_embedding)?;
        let query = self.query.forward(&tokens.narrow(1, 0, 1)?.contiguous()?)?;
        let key = self.key.forward(&tokens)?;
        let value = self.value.forward(&tokens)?;

        let pooled = multi_head_attention(&query, &key, &value, self.heads, None)?;
        self.output.forward(&pooled.squeeze(1)?)
    }
}
