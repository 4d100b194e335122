//! The vision transformer.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, VarBuilder, linear};
use cnclip_crds::model::VitConfig;

use crate::layers::{LayerNorm, first_token, multi_head_attention, normal_weight, quick_gelu};
use crate::{NamedOutput, TowerOutput};

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

        let norm = |name: &str| LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp(name));
        let resblocks = vb.pp("transformer.resblocks");
        let blocks = (0..config.layers as usize)
            .map(|layer| Block::new(config, resblocks.pp(layer)))
            .collect::<Result<_>>()?;

        Ok(Self {
            class_embedding: normal_weight(&vb, &[width], "class_embedding")?,
            position_embedding: normal_weight(&vb, &[tokens, width], "positional_embedding")?,
            patch_embedding: candle_nn::conv2d_no_bias(3, width, patch, stride, vb.pp("conv1"))?,
            norm_pre: norm("ln_pre")?,
            blocks,
            norm_post: norm("ln_post")?,
            projection: normal_weight(&vb, &[width, embed_dim], "proj")?,
        })
    }

    /// # Shapes
    /// `pixels` `[batch, 3, side, side]`, normalized.
    pub(crate) fn encode_images(&self, pixels: &Tensor) -> Result<TowerOutput> {
        let mut x = self.embed_patches(pixels)?;
        let mut blocks = vec![NamedOutput::new("visual.ln_pre", &x)];
        for (number, block) in self.blocks.iter().enumerate() {
            x = x.apply(block)?;
            let name = format!("visual.transformer.resblocks.{number}");
            blocks.push(NamedOutput::new(&name, &x));
        }

        // Only the class token is pooled: in the last block the other tokens are keys and values.
        let features = first_token(&x)?
            .apply(&self.norm_post)?
            .matmul(&self.projection)?;

        Ok(TowerOutput { features, blocks })
    }

    fn embed_patches(&self, pixels: &Tensor) -> Result<Tensor> {
        // [batch, width, rows, columns] to one token for each patch, row by row.
        let patches = pixels
            .apply(&self.patch_embedding)?
            .flatten_from(2)?
            .transpose(1, 2)?
            .contiguous()?;

        let (batch, _, width) = patches.dims3()?;
        let class_token = self
            .class_embedding
            .expand((batch, 1, width))?
            .contiguous()?;

        Tensor::cat(&[&class_token, &patches], 1)?
            .broadcast_add(&self.position_embedding)?
            .apply(&self.norm_pre)
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
        let norm = |name: &str| LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp(name));
        // PyTorch's MultiheadAttention stacks query, key and value in one matrix.
        let attention = vb.pp("attn");
        let weight = normal_weight(&attention, &[3 * width, width], "in_proj_weight")?;
        let bias = attention.get(3 * width, "in_proj_bias")?;

        Ok(Self {
            heads: width / config.head_width as usize,
            norm_1: norm("ln_1")?,
            in_projection: Linear::new(weight, Some(bias)),
            out_projection: linear(width, width, attention.pp("out_proj"))?,
            norm_2: norm("ln_2")?,
            mlp_up: linear(width, 4 * width, vb.pp("mlp.c_fc"))?,
            mlp_down: linear(4 * width, width, vb.pp("mlp.c_proj"))?,
        })
    }

    fn self_attention(&self, x: &Tensor) -> Result<Tensor> {
        let stacked = x.apply(&self.in_projection)?;
        let width = x.dim(D::Minus1)?;
        let part = |number: usize| stacked.narrow(D::Minus1, number * width, width);
        let query = part(0)?;
        let key = part(1)?;
        let value = part(2)?;

        let attended = multi_head_attention(&query, &key, &value, self.heads, None)?;
        attended.apply(&self.out_projection)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply(&self.mlp_up)?
            .apply(&quick_gelu)?
            .apply(&self.mlp_down)
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let attended = self.self_attention(&x.apply(&self.norm_1)?)?;
        let middle = (x + attended)?;
        let output = self.feed_forward(&middle.apply(&self.norm_2)?)?;

        middle + output
    }
}
