//! Layers that both transformers share, in operations that candle can differentiate.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Init, Linear, VarBuilder, ops};

/// Standard deviation of random weights where the reference does not depend on the width.
const INITIALIZER_RANGE: f64 = 0.02;

/// Layer normalization over the last dimension.
///
/// `candle_nn::LayerNorm` runs a fused operation that has no backward pass, hence this one.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, epsilon: f32, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
            epsilon,
        })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm_slow(x, &self.weight, &self.bias, self.epsilon)
    }
}

/// Attention with a matrix each for queries, keys, values and the output.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
}

impl Attention {
    /// What `queries` find in `tokens`.
    ///
    /// # Shapes
    /// `queries` `[batch, queries, width]`, `tokens` `[batch, tokens, width]`,
    /// `mask` `[batch, 1, 1, tokens]`; `[batch, queries, outputs]` out.
    pub(crate) fn attend_to(
        &self,
        queries: &Tensor,
        tokens: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let query = queries.apply(&self.query)?;
        let key = tokens.apply(&self.key)?;
        let value = tokens.apply(&self.value)?;

        let attended = multi_head_attention(&query, &key, &value, self.heads, mask)?;
        attended.apply(&self.output)
    }
}

/// A weight drawn from a normal distribution, unless `vb` already holds it.
pub(crate) fn normal_weight(vb: &VarBuilder<'_>, shape: &[usize], name: &str) -> Result<Tensor> {
    let init = Init::Randn {
        mean: 0.0,
        stdev: INITIALIZER_RANGE,
    };

    vb.get_with_hints(shape, name, init)
}

/// `softmax(q·kᵀ / √d + mask)·v` for each head.
///
/// # Shapes
/// `query` `[batch, queries, width]`, `key` and `value` `[batch, tokens, width]`,
/// `mask` `[batch, 1, 1, tokens]`; the output has the shape of `query`.
pub(crate) fn multi_head_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let head_width = query.dim(D::Minus1)? / heads;
    let scale = (head_width as f64).powf(-0.5);
    let keys = split_heads(key, heads)?.transpose(2, 3)?.contiguous()?;

    let mut scores = split_heads(query, heads)?.matmul(&keys)?;
    scores = (scores * scale)?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }

    // Not `softmax_last_dim`, which is fused and has no backward pass.
    ops::softmax(&scores, D::Minus1)?
        .matmul(&split_heads(value, heads)?)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape(query.shape())
}

/// `[batch, tokens, width]` as `[batch, heads, tokens, width of a head]`.
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    x.reshape((batch, tokens, heads, width / heads))?
        .transpose(1, 2)?
        // Strided gradients take the slow path of candle's backward pass.
        .contiguous()
}

/// The first of `[batch, tokens, width]`, which stands for all of them: `[batch, width]`.
pub(crate) fn first_token(x: &Tensor) -> Result<Tensor> {
    x.narrow(1, 0, 1)?.squeeze(1)
}

/// `x·σ(1.702·x)`: OpenAI's approximation of GELU, in every image tower whatever its size.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    // `ops::sigmoid` is the one fused operation of candle-nn with a backward pass.
    x * ops::sigmoid(&(x * 1.702)?)?
}
