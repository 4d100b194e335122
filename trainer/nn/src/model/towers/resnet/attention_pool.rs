//! Attention pooling, the end of the tower: one attention layer whose only query is the mean of all positions.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention_pool::{SingleQueryAttention, SingleQueryCache};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::mean_pool_token;
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::model::towers::FlatParams;

/// Width of an attention head, as in all of CLIP's ResNets.
const HEAD_WIDTH: usize = 64;

/// `features = c(attention(q(mean), k(tokens), v(tokens)))`, where the tokens are the mean and the
/// positions of the image, each with its learned position embedding added.
///
/// # Shapes
/// `x` `[batch, positions, width]`, features `[batch, features]`.
#[derive(Debug)]
pub(super) struct AttentionPool {
    attention: SingleQueryAttention,
    positions: Weight,
    kv: Linear,
    q: Linear,
    c: Linear,
    cache: AttentionPoolCache,
}

/// Activations that the forward pass keeps for the backward pass, and gradients.
#[derive(Debug)]
struct AttentionPoolCache {
    tokens: Tensor,
    means: Tensor,
    kv: Tensor,
    q: Tensor,
    probabilities: Tensor,
    attended: Tensor,
    dkv: Tensor,
    dq: Tensor,
    dattended: Tensor,
}

impl AttentionPoolCache {
    fn new(memory: &Memory, batch: usize, attention: SingleQueryAttention) -> Self {
        let SingleQueryAttention {
            heads,
            width,
            tokens,
        } = attention;

        let alloc = |row: usize| memory.alloc_activations(batch * row);
        Self {
            tokens: alloc(tokens * width),
            means: alloc(width),
            kv: alloc(tokens * 2 * width),
            q: alloc(width),
            // The softmax is in fp32, whatever the format of activations.
            probabilities: memory.alloc_f32(batch * tokens * heads),
            attended: alloc(width),
            dkv: alloc(tokens * 2 * width),
            dq: alloc(width),
            dattended: alloc(width),
        }
    }
}

impl AttentionPool {
    /// Declares the weights under `visual.attnpool`, with memory for a batch.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        positions: usize,
        width: usize,
        features: usize,
        batch: usize,
    ) -> Self {
        let attention = SingleQueryAttention {
            heads: width / HEAD_WIDTH,
            width,
            tokens: 1 + positions,
        };

        // The order of declarations is the order of the tensors in the flat arrays.
        let weight_init = ParamInit::Normal((width as f32).powf(-0.5));
        let bias_init = ParamInit::uniform_fan_in(width);
        let mut register = |name: &str, shape: &[usize], init| {
            layout.register_weight(&format!("visual.attnpool.{name}"), shape, init)
        };

        let shape = [1 + positions, width];
        let position_embedding = register("positional_embedding", &shape, weight_init);
        // Keys and values of every token come of one product.
        let kv_weights = ["k_proj.weight", "v_proj.weight"]
            .map(|name| register(name, &[width, width], weight_init));
        let kv_biases =
            ["k_proj.bias", "v_proj.bias"].map(|name| register(name, &[width], bias_init));
        let kv = Linear::new(
            Weight::join_adjacent(&kv_weights),
            Some(Weight::join_adjacent(&kv_biases)),
            width,
        );

        let mut declare_linear = |name: &str, outputs| {
            let name = format!("visual.attnpool.{name}");
            Linear::declare_params(layout, &name, width, outputs, weight_init, bias_init)
        };

        let q = declare_linear("q_proj", width);
        let c = declare_linear("c_proj", features);
        Self {
            attention,
            positions: position_embedding,
            kv,
            q,
            c,
            cache: AttentionPoolCache::new(layout.memory(), batch, attention),
        }
    }

    /// Writes the features.
    pub(super) fn forward(
        &mut self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        features: TensorViewMut<'_>,
    ) {
        let SingleQueryAttention {
            heads,
            width,
            tokens,
        } = self.attention;

        let pooled_len = x.len() / (tokens - 1);
        let probabilities_len = pooled_len / width * heads * tokens;
        let cache = &mut self.cache;
        // The mean is a token like the others, and the only query: an image has one row of scores, not a square
        // matrix.
        let mut all = cache.tokens.first_n_mut(pooled_len * tokens);
        let mut means = cache.means.first_n_mut(pooled_len);
        let positions = self.positions.slice_of(values);
        mean_pool_token::forward(width, positions, x, all.reborrow(), means.reborrow());

        let mut kv = cache.kv.first_n_mut(2 * pooled_len * tokens);
        let mut q = cache.q.first_n_mut(pooled_len);
        self.kv
            .forward(values, all.as_view(), kv.reborrow(), Accumulate::No);
        self.q
            .forward(values, means.as_view(), q.reborrow(), Accumulate::No);

        let mut attended = cache.attended.first_n_mut(pooled_len);
        self.attention.forward(
            q.as_view(),
            kv.as_view(),
            cache.probabilities.first_n_mut(probabilities_len),
            attended.reborrow(),
        );

        self.c
            .forward(values, attended.as_view(), features, Accumulate::No);
    }

    /// Adds to the gradients of the weights; writes `dx`.
    pub(super) fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        dfeatures: TensorView<'_>,
        dx: TensorViewMut<'_>,
    ) {
        let SingleQueryAttention {
            heads,
            width,
            tokens,
        } = self.attention;

        let pooled_len = dfeatures.len() / self.c.outputs() * width;
        let probabilities_len = pooled_len / width * heads * tokens;
        let cache = &mut self.cache;
        let attended = cache.attended.first_n(pooled_len);
        let mut dattended = cache.dattended.first_n_mut(pooled_len);
        self.c.backward(
            params.values,
            &mut params.gradients,
            attended,
            dfeatures,
            dattended.reborrow(),
            Accumulate::No,
        );

        let attention_cache = SingleQueryCache {
            q: cache.q.first_n(pooled_len),
            kv: cache.kv.first_n(pooled_len * tokens * 2),
            probabilities: cache.probabilities.first_n(probabilities_len),
            out: attended,
        };

        let mut dq = cache.dq.first_n_mut(pooled_len);
        let mut dkv = cache.dkv.first_n_mut(pooled_len * tokens * 2);
        self.attention.backward(
            attention_cache,
            dattended.as_view(),
            dq.reborrow(),
            dkv.reborrow(),
        );

        // Keys and queries are not needed any more: from here on their arrays hold gradients of tokens.
        let all = cache.tokens.first_n(pooled_len * tokens);
        let mut dall = cache.kv.first_n_mut(pooled_len * tokens);
        self.kv.backward(
            params.values,
            &mut params.gradients,
            all,
            dkv.as_view(),
            dall.reborrow(),
            Accumulate::No,
        );

        let means = cache.means.first_n(pooled_len);
        let mut dmeans = cache.q.first_n_mut(pooled_len);
        self.q.backward(
            params.values,
            &mut params.gradients,
            means,
            dq.as_view(),
            dmeans.reborrow(),
            Accumulate::No,
        );

        let positions = self.positions.slice_of(params.gradients.reborrow());
        mean_pool_token::backward(width, positions, dall, dmeans.as_view(), dx);
    }
}
