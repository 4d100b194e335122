//! The vision transformer.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, VarBuilder};
use cnclip_crds::model::VitConfig;

use crate::TowerOutput;
use crate::layers::{LayerNorm, multi_head_attention, normal_weight, quick_gelu};

/// PyTorch's default.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// Patches and a class token through pre-normalized blocks; the class token is projected.
#[derive(Clone, Debug)]
pub(crate) struct VisionTransformer {
    class_embedding: Tensor,
    position_embedding: Tensor,
    patch_embedding: Conv2d,
    norm_pre: LayerNorm,
    blocks: Vec<Block>,
    norm_post: LayerNorm,
    projection: Tensor,
}

impl VisionTransformer {
    pub(crate) fn new(
        config: &VitConfig,
        resolution: usize,
        embed_dim: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let width = config.width as usize;
        let patch = config.patch_size as usize;
        let tokens = 1 + (resolution / patch).pow(2);
        let stride = Conv2dConfig {
            stride: patch,
            ..Conv2dConfig::default()
        };

        let resblocks = vb.pp("transformer.resblocks");
        let blocks = (0..config.layers as usize)
            .map(|layer| Block::new(config, resblocks.pp(layer)))
            .collect::<Result<_>>()?;

        Ok(Self {
            class_embedding: normal_weight(&vb, &[width], "class_embedding")?,
            position_embedding: normal_weight(&vb, &[tokens, width], "positional_embedding")?,
            patch_embedding: candle_nn::conv2d_no_bias(3, width, patch, stride, vb.pp("conv1"))?,
            norm_pre: LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp("ln_pre"))?,
            blocks,
            norm_post: LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp("ln_post"))?,
            projection: normal_weight(&vb, &[width, embed_dim], "proj")?,
        })
    }

    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<TowerOutput> {
        let batch = pixels.dim(0)?;
        let width = self.class_embedding.dim(0)?;
        let patches = self.patch_embedding.forward(pixels)?;
        // [batch, width, rows, columns] to one token for each patch, row by row.
        let patches = patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let class = self.class_embedding.reshape((1, 1, width))?;
        let class = class.broadcast_as((batch, 1, width))?.contiguous()?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?;
        let tokens = tokens.broadcast_add(&self.position_embedding)?;

        let mut x = self.norm_pre.forward(&tokens)?;
        let mut blocks = vec![("visual.ln_pre".to_owned(), x.clone())];
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            blocks.push((format!("visual.transformer.resblocks.{layer}"), x.clone()));
        }

        // Only the class token is pooled: in the last block the other tokens are keys and values.
        let class = x.narrow(1, 0, 1)?.squeeze(1)?;
        let features = self.norm_post.forward(&class)?.matmul(&self.projection)?;
        Ok(TowerOutput { features, blocks })
    }
}

/// `m = x + attention(norm(x))`, `y = m + mlp(norm(m))`.
#[derive(Clone, Debug)]
struct Block {
    heads: usize,
    norm_1: LayerNorm,
    in_projection: Linear,
    out_projection: Linear,
    norm_2: LayerNorm,
    mlp_up: Linear,
    mlp_down: Linear,
}

impl Block {
    fn new(config: &VitConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width as usize;
        let attention = vb.pp("attn");
        // PyTorch's MultiheadAttention stacks query, key and value in one matrix.
        let weight = normal_weight(&attention, &[3 * width, width], "in_proj_weight")?;
        let bias = attention.get(3 * width, "in_proj_bias")?;

        Ok(Self {
            heads: width / config.head_width as usize,
            norm_1: LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp("ln_1"))?,
            in_projection: Linear::new(weight, Some(bias)),
            out_projection: candle_nn::linear(width, width, attention.pp("out_proj"))?,
            norm_2: LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp("ln_2"))?,
            mlp_up: candle_nn::linear(width, 4 * width, vb.pp("mlp.c_fc"))?,
            mlp_down: candle_nn::linear(4 * width, width, vb.pp("mlp.c_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = self.in_projection.forward(&self.norm_1.forward(x)?)?;
        let qkv = qkv.chunk(3, 2)?;
        let attended = multi_head_attention(&qkv[0], &qkv[1], &qkv[2], self.heads, None)?;
        let middle = (x + self.out_projection.forward(&attended)?)?;

        let hidden = self.mlp_up.forward(&self.norm_2.forward(&middle)?)?;
        &middle + self.mlp_down.forward(&quick_gelu(&hidden)?)?
    }
}
