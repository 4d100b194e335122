//! The end of the tower: one attention layer whose only query is the mean of all places.

use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::attention_pool::Query;
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::mean_pool_token;
use cnclip_compute::params::{Init, Layout, Weight};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

/// Width of an attention head.
const HEAD: usize = 64;

/// `features = c(attention(q(mean), k(tokens), v(tokens)))`, where the tokens are the mean and the
/// places, each with its learned position added.
///
/// # Shapes
/// `x` [batch, places, width], features [batch, features].
#[derive(Debug)]
pub(super) struct AttentionPool {
    attention: Query,
    positions: Weight,
    kv: Linear,
    q: Linear,
    c: Linear,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass, and the gradients that take the same room.
#[derive(Debug)]
struct Saved {
    tokens: Array,
    means: Array,
    kv: Array,
    q: Array,
    probabilities: Array,
    attended: Array,
    dkv: Array,
    dq: Array,
    dattended: Array,
}

impl Saved {
    fn new(
        memory: &Memory,
        batch: usize,
        Query {
            heads,
            width,
            tokens,
        }: Query,
    ) -> Self {
        let array = |row: usize| memory.array(batch * row);
        Self {
            tokens: array(tokens * width),
            means: array(width),
            kv: array(tokens * 2 * width),
            q: array(width),
            probabilities: memory.exact(batch * tokens * heads),
            attended: array(width),
            dkv: array(tokens * 2 * width),
            dq: array(width),
            dattended: array(width),
        }
    }
}

impl AttentionPool {
    /// Declares the weights under `visual.attnpool`, with memory for a batch.
    pub(super) fn declare(
        layout: &mut Layout,
        (places, width): (usize, usize),
        features: usize,
        batch: usize,
    ) -> Self {
        let attention = Query {
            heads: width / HEAD,
            width,
            tokens: 1 + places,
        };

        let normal = Init::Normal((width as f32).powf(-0.5));
        let mut weight = |name: &str, shape: &[usize], init| {
            layout.weight(&format!("visual.attnpool.{name}"), shape, init)
        };

        let positions = weight("positional_embedding", &[1 + places, width], normal);
        let keys = ["k_proj.weight", "v_proj.weight"];
        let matrices = keys.map(|name| weight(name, &[width, width], normal));
        let keys = ["k_proj.bias", "v_proj.bias"];
        let biases = keys.map(|name| weight(name, &[width], Init::fan_in(width)));
        let kv = Linear::new(Weight::join(&matrices), Some(Weight::join(&biases)), width);
        let mut linear = |name: &str, outputs| {
            let name = format!("visual.attnpool.{name}");
            let inits = (normal, Init::fan_in(width));
            Linear::declare(layout, &name, (width, outputs), inits)
        };

        let q = linear("q_proj", width);
        let c = linear("c_proj", features);
        let saved = Saved::new(layout.memory(), batch, attention);
        Self {
            attention,
            positions,
            kv,
            q,
            c,
            saved,
        }
    }

    /// Writes the features.
    pub(super) fn forward(&mut self, values: View<'_>, x: View<'_>, features: ViewMut<'_>) {
        let Query {
            heads,
            width,
            tokens,
        } = self.attention;

        let few = x.len() / (tokens - 1);
        let saved = &mut self.saved;
        let mut all = saved.tokens.first_mut(few * tokens);
        let mut means = saved.means.first_mut(few);
        let both = (all.reborrow(), means.reborrow());

        mean_pool_token::forward(width, self.positions.of(values), x, both);
        let mut kv = saved.kv.first_mut(2 * few * tokens);
        let mut q = saved.q.first_mut(few);
        self.kv
            .forward(values, all.view(), kv.reborrow(), Onto::Replace);
        self.q
            .forward(values, means.view(), q.reborrow(), Onto::Replace);
        let probabilities = saved.probabilities.first_mut(few / width * heads * tokens);

        let mut attended = saved.attended.first_mut(few);
        self.attention
            .forward(q.view(), kv.view(), probabilities, attended.reborrow());
        self.c
            .forward(values, attended.view(), features, Onto::Replace);
    }

    /// Adds to the gradients of the weights; writes `dx`.
    pub(super) fn backward(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        dfeatures: View<'_>,
        dx: ViewMut<'_>,
    ) {
        let Query {
            heads,
            width,
            tokens,
        } = self.attention;

        let few = dfeatures.len() / self.c.outputs() * width;
        let saved = &mut self.saved;
        let attended = saved.attended.first(few);
        let mut dattended = saved.dattended.first_mut(few);
        self.c.backward(
            (values, gradients),
            attended,
            dfeatures,
            dattended.reborrow(),
            Onto::Replace,
        );

        let q = saved.q.first(few);
        let kv = saved.kv.first(few * tokens * 2);
        let mut dq = saved.dq.first_mut(few);
        let mut dkv = saved.dkv.first_mut(few * tokens * 2);
        let inner = (
            saved.probabilities.first(few / width * heads * tokens),
            attended,
        );

        let outer = (dq.reborrow(), dkv.reborrow());
        self.attention
            .backward((q, kv), inner, dattended.view(), outer);
        // From here on the arrays of the forward pass's keys and queries hold gradients of tokens.
        let all = saved.tokens.first(few * tokens);
        let means = saved.means.first(few);
        let mut dall = saved.kv.first_mut(few * tokens);

        self.kv.backward(
            (values, gradients),
            all,
            dkv.view(),
            dall.reborrow(),
            Onto::Replace,
        );

        let mut dmeans = saved.q.first_mut(few);
        self.q.backward(
            (values, gradients),
            means,
            dq.view(),
            dmeans.reborrow(),
            Onto::Replace,
        );

        let positions = self.positions.of(gradients.reborrow());
        mean_pool_token::backward(width, positions, (dall, dmeans.view()), dx);
    }
}
