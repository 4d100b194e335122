//! One post-normalised layer of the text tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::Scratch;
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::layer_norm::{LayerNorm, Moments};
use crate::ops::linear::Linear;
use crate::ops::matrix::Onto;
use crate::ops::rows::{Keep, Sequences, spread, take};
use crate::params::{Init, Layout, Weight};

/// `m = norm(x + attention(x))`, `y = norm(m + feed_forward(m))`, with dropout before both sums.
///
/// # Shapes
/// `x` [tokens, width], `y` [kept, width]: the last layer goes on with the first token alone.
#[derive(Debug)]
pub(super) struct Layer {
    attention: Attention,
    qkv: Linear,
    out: Linear,
    norm_1: LayerNorm,
    feed_forward: FeedForward,
    norm_2: LayerNorm,
    keep: Keep,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct Saved {
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    sum_1: Vec<f32>,
    moments_1: Vec<Moments>,
    middle: Vec<f32>,
    sum_2: Vec<f32>,
    moments_2: Vec<Moments>,
    fed: feed_forward::Saved,
}

/// Where the values of one layer are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropouts {
    /// Attention probabilities.
    pub(super) attention: Dropout,
    /// What attention gives.
    pub(super) attended: Dropout,
    /// What the feed-forward part gives.
    pub(super) fed: Dropout,
}

/// Which shares of the values are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Of hidden values.
    pub(super) hidden: f32,
    /// Of attention probabilities.
    pub(super) attention: f32,
}

impl Rates {
    /// The dropouts of one layer. Site 0 is the embeddings'; each layer has three.
    pub(super) fn at(self, dropout: Dropout, layer: usize) -> Dropouts {
        let site = 1 + 3 * layer as u64;
        Dropouts {
            attention: dropout.at(site, self.attention),
            attended: dropout.at(site + 1, self.hidden),
            fed: dropout.at(site + 2, self.hidden),
        }
    }
}

impl Layer {
    /// Declares layer `layer`.
    pub(super) fn declare(
        layout: &mut Layout,
        layer: usize,
        attention: Attention,
        hidden: usize,
        keep: Keep,
    ) -> Self {
        let name = format!("bert.encoder.layer.{layer}");
        let width = attention.width;
        let qkv = declare_qkv(layout, &format!("{name}.attention.self"), width);
        let out = declare(layout, &format!("{name}.attention.output.dense"), (width, width));
        let norm = format!("{name}.attention.output.LayerNorm");
        let norm_1 = LayerNorm::declare(layout, &norm, width, super::EPSILON);
        let up = declare(layout, &format!("{name}.intermediate.dense"), (width, hidden));
        let down = declare(layout, &format!("{name}.output.dense"), (hidden, width));
        let norm = format!("{name}.output.LayerNorm");
        Self {
            attention,
            qkv,
            out,
            norm_1,
            feed_forward: FeedForward::new(up, down, Activation::Gelu),
            norm_2: LayerNorm::declare(layout, &norm, width, super::EPSILON),
            keep,
        }
    }

    /// Memory for what is kept of so many tokens of so many texts.
    pub(super) fn reserve(&self, (rows, batch): (usize, usize)) -> Saved {
        let (attention, width) = (self.attention, self.attention.width);
        let kept = if self.keep == Keep::All { rows } else { batch };
        Saved {
            qkv: vec![0.0; rows * 3 * width],
            probabilities: vec![0.0; kept * attention.row()],
            attended: vec![0.0; kept * width],
            sum_1: vec![0.0; kept * width],
            moments_1: vec![[0.0; 2]; kept],
            middle: vec![0.0; kept * width],
            sum_2: vec![0.0; kept * width],
            moments_2: vec![[0.0; 2]; kept],
            fed: self.feed_forward.reserve(kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: &[f32],
        (sequences, dropouts): (Sequences<'_>, Dropouts),
        x: &[f32],
        y: &mut [f32],
        (saved, scratch): (&mut Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let (tokens, kept, width) = (sequences.tokens(), sequences.kept(), self.attention.width);
        let (x, y) = (&x[..tokens * width], &mut y[..kept * width]);

        let qkv = &mut saved.qkv[..3 * x.len()];
        self.qkv.forward(values, x, qkv, Onto::Replace);
        let probabilities = &mut saved.probabilities[..kept * self.attention.row()];
        let dropped = &mut scratch.dropped[..probabilities.len()];
        let attended = &mut saved.attended[..y.len()];
        let weights = (probabilities, dropped);
        self.attention.forward(sequences, dropouts.attention, qkv, weights, attended);
        let sum = &mut saved.sum_1[..y.len()];
        self.out.forward(values, attended, sum, Onto::Replace);
        let residual = &mut scratch.spare[..y.len()];
        take(sequences, width, x, residual);
        dropouts.attended.add(sequences, width, sum, residual);
        let middle = &mut saved.middle[..y.len()];
        self.norm_1.forward(values, sum, middle, &mut saved.moments_1[..kept]);

        let sum = &mut saved.sum_2[..y.len()];
        self.feed_forward.forward(values, &mut saved.fed, middle, sum, Onto::Replace);
        dropouts.fed.add(sequences, width, sum, middle);
        self.norm_2.forward(values, sum, y, &mut saved.moments_2[..kept]);
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (&[f32], &mut [f32]),
        (sequences, dropouts): (Sequences<'_>, Dropouts),
        x: &[f32],
        (saved, scratch): (&Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let (tokens, kept, width) = (sequences.tokens(), sequences.kept(), self.attention.width);
        let (all, few) = (tokens * width, kept * width);

        let Scratch { gradient, narrow, spare, wide, qkv: dqkv, dropped, scores } = scratch;
        let (dy, dsum, dmasked) = (&mut gradient[..few], &mut narrow[..few], &mut spare[..few]);
        let inner = (&saved.sum_2[..few], &saved.moments_2[..kept]);
        self.norm_2.backward((values, gradients), inner, dy, dsum, Onto::Replace);
        dropouts.fed.apply(sequences, width, dsum, dmasked);
        let inner = (&saved.middle[..few], &*dmasked);
        let (weights, fed) = ((values, &mut *gradients), &saved.fed);
        self.feed_forward.backward(weights, fed, inner, wide, dsum, Onto::Add);

        let (dmiddle, dsum) = (dsum, dy);
        let inner = (&saved.sum_1[..few], &saved.moments_1[..kept]);
        self.norm_1.backward((values, gradients), inner, dmiddle, dsum, Onto::Replace);
        dropouts.attended.apply(sequences, width, dsum, dmasked);
        let (attended, dattended) = (&saved.attended[..few], dmiddle);
        self.out.backward((values, gradients), attended, dmasked, dattended, Onto::Replace);
        let dqkv = &mut dqkv[..3 * all];
        let row = kept * self.attention.row();
        let inner = (&saved.qkv[..3 * all], &saved.probabilities[..row]);
        let memory = (&mut dropped[..row], &mut scores[..row]);
        self.attention.backward(sequences, dropouts.attention, inner, dattended, memory, dqkv);

        let dx = &mut narrow[..all];
        spread(sequences, width, &gradient[..few], dx);
        self.qkv.backward((values, gradients), &x[..all], dqkv, dx, Onto::Add);
        std::mem::swap(gradient, narrow);
    }
}

/// The standard deviation that BERT starts with.
const DEVIATION: Init = Init::Normal(0.02);

fn declare(layout: &mut Layout, name: &str, sizes: (usize, usize)) -> Linear {
    Linear::declare(layout, name, sizes, (DEVIATION, Init::Zeros))
}

/// Query, key and value: three tensors by name, one matrix to multiply with.
fn declare_qkv(layout: &mut Layout, name: &str, width: usize) -> Linear {
    let mut three = |part: &str, shape: &[usize], init| {
        let names = ["query", "key", "value"].map(|which| format!("{name}.{which}.{part}"));
        Weight::join(&names.map(|name| layout.weight(&name, shape, init)))
    };
    let weight = three("weight", &[width, width], DEVIATION);
    let bias = three("bias", &[width], Init::Zeros);
    Linear::new(weight, Some(bias), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_every_layer_drops_by_itself() {
        let rates = Rates { hidden: 0.5, attention: 0.5 };
        let dropout = Dropout::new(1, 2, 0);
        let mut masks = vec![dropout.at(0, rates.hidden)];
        for layer in 0..3 {
            let Dropouts { attention, attended, fed } = rates.at(dropout, layer);
            masks.extend([attention, attended, fed]);
        }
        for (i, mask) in masks.iter().enumerate() {
            assert!(masks[..i].iter().all(|other| other != mask), "place {i}");
        }
    }
}
