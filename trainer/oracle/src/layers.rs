//! Layers that both transformers share, in operations that candle can differentiate.

use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder, ops};

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

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm_slow(x, &self.weight, &self.bias, self.epsilon)
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
/// `query` [batch, queries, width], `key` and `value` [batch, tokens, width],
/// `mask` [batch, 1, 1, tokens]; the output has the shape of `query`.
pub(crate) fn multi_head_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, queries, width) = query.dims3()?;
    let head_width = width / heads;
    // Contiguous: strided gradients take the slow path of candle's backward pass.
    let split_heads = |x: &Tensor| {
        let tokens = x.dim(1)?;
        x.reshape((batch, tokens, heads, head_width))?
            .transpose(1, 2)?
            .contiguous()
    };

    let scale = (head_width as f64).powf(-0.5);
    let keys = split_heads(key)?.transpose(2, 3)?.contiguous()?;
    let mut scores = (split_heads(query)?.matmul(&keys)? * scale)?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }

    // Not `softmax_last_dim`, which is fused and has no backward pass.
    let probabilities = ops::softmax(&scores, D::Minus1)?;
    probabilities
        .matmul(&split_heads(value)?)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((batch, queries, width))
}

/// `x·σ(1.702·x)`: OpenAI's approximation of GELU, in every image tower whatever its size.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    // `ops::sigmoid` is the one fused operation of candle-nn with a backward pass.
    x * ops::sigmoid(&(x * 1.702)?)?
}
