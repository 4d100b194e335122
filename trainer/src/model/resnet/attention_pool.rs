//! The end of the tower: one attention layer whose only query is the mean of all places.

use rayon::prelude::*;

use crate::array::ViewMut;
use crate::ops::linear::{Linear, add_column_sums};
use crate::ops::matrix::Onto;
use crate::ops::query::Query;
use crate::params::{Init, Layout, Weight};

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
    tokens: Vec<f32>,
    means: Vec<f32>,
    kv: Vec<f32>,
    q: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    dkv: Vec<f32>,
    dq: Vec<f32>,
    dattended: Vec<f32>,
}

impl Saved {
    fn new(batch: usize, Query { heads, width, tokens }: Query) -> Self {
        let array = |row: usize| vec![0.0; batch * row];
        Self {
            tokens: array(tokens * width),
            means: array(width),
            kv: array(tokens * 2 * width),
            q: array(width),
            probabilities: array(tokens * heads),
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
        let attention = Query { heads: width / HEAD, width, tokens: 1 + places };
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
        let (q, c) = (linear("q_proj", width), linear("c_proj", features));
        Self { attention, positions, kv, q, c, saved: Saved::new(batch, attention) }
    }

    /// Writes the features.
    pub(super) fn forward(&mut self, values: &[f32], x: &[f32], features: &mut [f32]) {
        let Query { heads, width, tokens } = self.attention;
        let batch = x.len() / ((tokens - 1) * width);
        let saved = &mut self.saved;
        let (all, means) =
            (&mut saved.tokens[..batch * tokens * width], &mut saved.means[..batch * width]);
        gather(self.positions.of(values), x, all, means, width);
        let (kv, q) = (&mut saved.kv[..2 * all.len()], &mut saved.q[..means.len()]);
        self.kv.forward(values.into(), (&*all).into(), (&mut *kv).into(), Onto::Replace);
        self.q.forward(values.into(), (&*means).into(), (&mut *q).into(), Onto::Replace);
        let probabilities = &mut saved.probabilities[..batch * tokens * heads];
        let attended = &mut saved.attended[..means.len()];
        self.attention.forward(q, kv, probabilities, attended);
        self.c.forward(values.into(), (&*attended).into(), features.into(), Onto::Replace);
    }

    /// Adds to the gradients of the weights; writes `dx`.
    pub(super) fn backward(
        &mut self,
        (values, gradients): (&[f32], &mut [f32]),
        dfeatures: &[f32],
        dx: &mut [f32],
    ) {
        let Query { heads, width, tokens } = self.attention;
        let few = dfeatures.len() / self.c.outputs() * width;
        let saved = &mut self.saved;
        let (attended, dattended) = (&saved.attended[..few], &mut saved.dattended[..few]);
        let weights = (values.into(), &mut ViewMut::from(&mut *gradients));
        let dy = dfeatures.into();
        self.c.backward(weights, attended.into(), dy, (&mut *dattended).into(), Onto::Replace);
        let (q, kv) = (&saved.q[..few], &saved.kv[..few * tokens * 2]);
        let (dq, dkv) = (&mut saved.dq[..few], &mut saved.dkv[..few * tokens * 2]);
        let inner = (&saved.probabilities[..few / width * heads * tokens], attended);
        self.attention.backward((q, kv), inner, dattended, (dq, dkv));
        // From here on the arrays of the forward pass's keys and queries hold gradients of tokens.
        let (all, means) = (&saved.tokens[..few * tokens], &saved.means[..few]);
        let dall = &mut saved.kv[..few * tokens];
        let weights = (values.into(), &mut ViewMut::from(&mut *gradients));
        let dy = (&*dkv).into();
        self.kv.backward(weights, all.into(), dy, (&mut *dall).into(), Onto::Replace);
        let dmeans = &mut saved.q[..few];
        let weights = (values.into(), &mut ViewMut::from(&mut *gradients));
        let dy = (&*dq).into();
        self.q.backward(weights, means.into(), dy, (&mut *dmeans).into(), Onto::Replace);
        scatter(self.positions.of_mut(gradients), dall, dmeans, dx);
    }
}

/// Writes the tokens of each picture, and the first of each a second time.
fn gather(positions: &[f32], x: &[f32], tokens: &mut [f32], means: &mut [f32], width: usize) {
    let (all, places) = (positions.len(), positions.len() - width);
    let pictures = tokens.par_chunks_mut(all).zip(means.par_chunks_mut(width));
    pictures.zip(x.par_chunks(places)).for_each(|((tokens, mean), x)| {
        mean.fill(0.0);
        for place in x.chunks_exact(width) {
            mean.iter_mut().zip(place).for_each(|(mean, value)| *mean += value);
        }
        let share = width as f32 / places as f32;
        mean.iter_mut().zip(positions).for_each(|(mean, p)| *mean = *mean * share + p);
        tokens[..width].copy_from_slice(mean);
        let sums = x.iter().zip(&positions[width..]);
        tokens[width..].iter_mut().zip(sums).for_each(|(token, (x, p))| *token = x + p);
    });
}

/// The backward of [`gather`]: adds to the gradient of the positions, writes `dx`.
fn scatter(positions: &mut [f32], dtokens: &mut [f32], dmeans: &[f32], dx: &mut [f32]) {
    let all = positions.len();
    let width = all - dx.len() / (dtokens.len() / all);
    let share = width as f32 / (all - width) as f32;
    let pictures = dtokens.par_chunks_mut(all).zip(dmeans.par_chunks(width));
    pictures.zip(dx.par_chunks_mut(all - width)).for_each(|((dtokens, dmean), dx)| {
        let (first, places) = dtokens.split_at_mut(width);
        first.iter_mut().zip(dmean).for_each(|(first, mean)| *first += mean);
        for (dx, place) in dx.chunks_exact_mut(width).zip(places.chunks_exact(width)) {
            for i in 0..width {
                dx[i] = place[i] + first[i] * share;
            }
        }
    });
    add_column_sums((&*dtokens).into(), positions.into());
}
