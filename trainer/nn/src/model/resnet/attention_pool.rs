//! The end of the tower: one attention layer whose only query is the mean of all places.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention_pool::SingleQueryAttention;
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::mean_pool_token;
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// Width of an attention head.
const HEAD_WIDTH: usize = 64;

/// `features = c(attention(q(mean), k(tokens), v(tokens)))`, where the tokens are the mean and the
/// places, each with its learned position added.
///
/// # Shapes
/// `x` [batch, places, width], features [batch, features].
#[derive(Debug)]
pub(super) struct AttentionPool {
    attention: SingleQueryAttention,
    positions: Weight,
    kv: Linear,
    q: Linear,
    c: Linear,
    cache: AttentionPoolCache,
}

/// What the forward pass keeps for the backward pass, and the gradients that take the same room.
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
    fn new(
        memory: &Memory,
        batch: usize,
        SingleQueryAttention {
            heads,
            width,
            tokens,
        }: SingleQueryAttention,
    ) -> Self {
        let array = |row: usize| memory.alloc_activations(batch * row);
        Self {
            tokens: array(tokens * width),
            means: array(width),
            kv: array(tokens * 2 * width),
            q: array(width),
            probabilities: memory.alloc_f32(batch * tokens * heads),
            attended: array(width),
            dkv: array(tokens * 2 * width),
            dq: array(width),
            dattended: array(width),
        }
    }
}

impl AttentionPool {
    /// Declares the weights under `visual.attnpool`, with memory for a batch.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        (places, width): (usize, usize),
        features: usize,
        batch: usize,
    ) -> Self {
        let attention = SingleQueryAttention {
            heads: width / HEAD_WIDTH,
            width,
            tokens: 1 + places,
        };

        let normal = ParamInit::Normal((width as f32).powf(-0.5));
        let mut weight = |name: &str, shape: &[usize], init| {
            layout.register_weight(&format!("visual.attnpool.{name}"), shape, init)
        };

        let positions = weight("positional_embedding", &[1 + places, width], normal);
        let keys = ["k_proj.weight", "v_proj.weight"];
        let matrices = keys.map(|name| weight(name, &[width, width], normal));
        let keys = ["k_proj.bias", "v_proj.bias"];
        let biases = keys.map(|name| weight(name, &[width], ParamInit::uniform_fan_in(width)));
        let kv = Linear::new(
            Weight::join_adjacent(&matrices),
            Some(Weight::join_adjacent(&biases)),
            width,
        );
        let mut linear = |name: &str, outputs| {
            let name = format!("visual.attnpool.{name}");
            let inits = (normal, ParamInit::uniform_fan_in(width));
            Linear::declare_params(layout, &name, (width, outputs), inits)
        };

        let q = linear("q_proj", width);
        let c = linear("c_proj", features);
        let saved = AttentionPoolCache::new(layout.memory(), batch, attention);
        Self {
            attention,
            positions,
            kv,
            q,
            c,
            cache: saved,
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

        let few = x.len() / (tokens - 1);
        let saved = &mut self.cache;
        let mut all = saved.tokens.first_n_mut(few * tokens);
        let mut means = saved.means.first_n_mut(few);
        let both = (all.reborrow(), means.reborrow());

        mean_pool_token::forward(width, self.positions.slice_of(values), x, both);
        let mut kv = saved.kv.first_n_mut(2 * few * tokens);
        let mut q = saved.q.first_n_mut(few);
        self.kv
            .forward(values, all.as_view(), kv.reborrow(), Accumulate::No);
        self.q
            .forward(values, means.as_view(), q.reborrow(), Accumulate::No);
        let probabilities = saved
            .probabilities
            .first_n_mut(few / width * heads * tokens);

        let mut attended = saved.attended.first_n_mut(few);
        self.attention.forward(
            q.as_view(),
            kv.as_view(),
            probabilities,
            attended.reborrow(),
        );
        self.c
            .forward(values, attended.as_view(), features, Accumulate::No);
    }

    /// Adds to the gradients of the weights; writes `dx`.
    pub(super) fn backward(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        dfeatures: TensorView<'_>,
        dx: TensorViewMut<'_>,
    ) {
        let SingleQueryAttention {
            heads,
            width,
            tokens,
        } = self.attention;

        let few = dfeatures.len() / self.c.outputs() * width;
        let saved = &mut self.cache;
        let attended = saved.attended.first_n(few);
        let mut dattended = saved.dattended.first_n_mut(few);
        self.c.backward(
            (values, gradients),
            attended,
            dfeatures,
            dattended.reborrow(),
            Accumulate::No,
        );

        let q = saved.q.first_n(few);
        let kv = saved.kv.first_n(few * tokens * 2);
        let mut dq = saved.dq.first_n_mut(few);
        let mut dkv = saved.dkv.first_n_mut(few * tokens * 2);
        let inner = (
            saved.probabilities.first_n(few / width * heads * tokens),
            attended,
        );

        let outer = (dq.reborrow(), dkv.reborrow());
        self.attention
            .backward((q, kv), inner, dattended.as_view(), outer);
        // From here on the arrays of the forward pass's keys and queries hold gradients of tokens.
        let all = saved.tokens.first_n(few * tokens);
        let means = saved.means.first_n(few);
        let mut dall = saved.kv.first_n_mut(few * tokens);

        self.kv.backward(
            (values, gradients),
            all,
            dkv.as_view(),
            dall.reborrow(),
            Accumulate::No,
        );

        let mut dmeans = saved.q.first_n_mut(few);
        self.q.backward(
            (values, gradients),
            means,
            dq.as_view(),
            dmeans.reborrow(),
            Accumulate::No,
        );

        let positions = self.positions.slice_of(gradients.reborrow());
        mean_pool_token::backward(width, positions, (dall, dmeans.as_view()), dx);
    }
}
