//! One pre-normalised block of the image tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::Scratch;
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::layer_norm::{LayerNorm, Moments};
use crate::ops::linear::Linear;
use crate::ops::matrix::Onto;
use crate::ops::rows::{Keep, Sequences, spread, take};
use crate::params::{Init, Layout};

/// `m = x + attention(norm(x))`, `y = m + feed_forward(norm(m))`.
///
/// # Shapes
/// `x` [tokens, width], `y` [kept, width]: the last block goes on with the class token alone.
#[derive(Debug)]
pub(super) struct Block {
    attention: Attention,
    norm_1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm_2: LayerNorm,
    feed_forward: FeedForward,
    keep: Keep,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct Saved {
    moments_1: Vec<Moments>,
    normed_1: Vec<f32>,
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    moments_2: Vec<Moments>,
    normed_2: Vec<f32>,
    fed: feed_forward::Saved,
}

impl Block {
    /// Declares block `layer`.
    pub(super) fn declare(
        layout: &mut Layout,
        layer: usize,
        attention: Attention,
        keep: Keep,
    ) -> Self {
        let name = format!("visual.transformer.resblocks.{layer}");
        let (width, hidden) = (attention.width, 4 * attention.width);
        let norm_1 = LayerNorm::declare(layout, &format!("{name}.ln_1"), width, super::EPSILON);
        let shape = [3 * width, width];
        let glorot = Init::glorot(width, 3 * width);
        let weight = layout.weight(&format!("{name}.attn.in_proj_weight"), &shape, glorot);
        let bias = layout.weight(&format!("{name}.attn.in_proj_bias"), &[3 * width], Init::Zeros);
        let mut linear = |part: &str, (inputs, outputs), bias| {
            let name = format!("{name}.{part}");
            Linear::declare(layout, &name, (inputs, outputs), (Init::fan_in(inputs), bias))
        };
        let out = linear("attn.out_proj", (width, width), Init::Zeros);
        let up = linear("mlp.c_fc", (width, hidden), Init::fan_in(width));
        let down = linear("mlp.c_proj", (hidden, width), Init::fan_in(hidden));
        Self {
            attention,
            norm_1,
            qkv: Linear::new(weight, Some(bias), width),
            out,
            norm_2: LayerNorm::declare(layout, &format!("{name}.ln_2"), width, super::EPSILON),
            feed_forward: FeedForward::new(up, down, Activation::QuickGelu),
            keep,
        }
    }

    /// Memory for what is kept of so many tokens of so many pictures.
    pub(super) fn reserve(&self, (rows, batch): (usize, usize)) -> Saved {
        let (attention, width) = (self.attention, self.attention.width);
        let kept = if self.keep == Keep::All { rows } else { batch };
        Saved {
            moments_1: vec![[0.0; 2]; rows],
            normed_1: vec![0.0; rows * width],
            qkv: vec![0.0; rows * 3 * width],
            probabilities: vec![0.0; kept * attention.row()],
            attended: vec![0.0; kept * width],
            middle: vec![0.0; kept * width],
            moments_2: vec![[0.0; 2]; kept],
            normed_2: vec![0.0; kept * width],
            fed: self.feed_forward.reserve(kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: &[f32],
        sequences: Sequences<'_>,
        x: &[f32],
        y: &mut [f32],
        (saved, scratch): (&mut Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let (tokens, kept, width) = (sequences.tokens(), sequences.kept(), self.attention.width);
        let (x, y) = (&x[..tokens * width], &mut y[..kept * width]);

        let normed = &mut saved.normed_1[..x.len()];
        self.norm_1.forward(values, x, normed, &mut saved.moments_1[..tokens]);
        let qkv = &mut saved.qkv[..3 * x.len()];
        self.qkv.forward(values, normed, qkv, Onto::Replace);
        let probabilities = &mut saved.probabilities[..kept * self.attention.row()];
        let dropped = &mut scratch.dropped[..probabilities.len()];
        let attended = &mut saved.attended[..y.len()];
        let weights = (probabilities, dropped);
        self.attention.forward(sequences, Dropout::NONE, qkv, weights, attended);
        let middle = &mut saved.middle[..y.len()];
        take(sequences, width, x, middle);
        self.out.forward(values, attended, middle, Onto::Add);

        let normed = &mut saved.normed_2[..y.len()];
        self.norm_2.forward(values, middle, normed, &mut saved.moments_2[..kept]);
        y.copy_from_slice(middle);
        self.feed_forward.forward(values, &mut saved.fed, normed, y, Onto::Add);
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (&[f32], &mut [f32]),
        sequences: Sequences<'_>,
        x: &[f32],
        (saved, scratch): (&Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let (tokens, kept, width) = (sequences.tokens(), sequences.kept(), self.attention.width);
        let (all, few) = (tokens * width, kept * width);

        let Scratch { gradient, narrow, wide, qkv: dqkv, dropped, scores, .. } = scratch;
        let (dy, dnormed) = (&mut gradient[..few], &mut narrow[..few]);
        let inner = (&saved.normed_2[..few], &*dy);
        let (weights, fed) = ((values, &mut *gradients), &saved.fed);
        self.feed_forward.backward(weights, fed, inner, wide, dnormed, Onto::Replace);
        let inner = (&saved.middle[..few], &saved.moments_2[..kept]);
        self.norm_2.backward((values, gradients), inner, dnormed, dy, Onto::Add);

        let (attended, dattended) = (&saved.attended[..few], dnormed);
        self.out.backward((values, gradients), attended, dy, dattended, Onto::Replace);
        let dqkv = &mut dqkv[..3 * all];
        let row = kept * self.attention.row();
        let inner = (&saved.qkv[..3 * all], &saved.probabilities[..row]);
        let memory = (&mut dropped[..row], &mut scores[..row]);
        self.attention.backward(sequences, Dropout::NONE, inner, dattended, memory, dqkv);

        let dx = &mut narrow[..all];
        spread(sequences, width, &gradient[..few], dx);
        std::mem::swap(gradient, narrow);
        let (dx, dnormed) = (&mut gradient[..all], &mut narrow[..all]);
        let normed = &saved.normed_1[..all];
        self.qkv.backward((values, gradients), normed, dqkv, dnormed, Onto::Replace);
        let inner = (&x[..all], &saved.moments_1[..tokens]);
        self.norm_1.backward((values, gradients), inner, dnormed, dx, Onto::Add);
    }
}
