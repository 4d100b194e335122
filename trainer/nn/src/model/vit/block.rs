//! One pre-normalised block of the image tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::Scratch;
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::rows::{Keep, Sequences, spread, take};
use cnclip_compute::params::{Init, Layout};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

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
    moments_1: Array,
    normed_1: Array,
    qkv: Array,
    probabilities: Array,
    attended: Array,
    middle: Array,
    moments_2: Array,
    normed_2: Array,
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
        let width = attention.width;
        let hidden = 4 * attention.width;
        let norm_1 = LayerNorm::declare(layout, &format!("{name}.ln_1"), width, super::EPSILON);
        let shape = [3 * width, width];
        let glorot = Init::glorot(width, 3 * width);
        let weight = layout.weight(&format!("{name}.attn.in_proj_weight"), &shape, glorot);
        let bias = layout.weight(
            &format!("{name}.attn.in_proj_bias"),
            &[3 * width],
            Init::Zeros,
        );

        let mut linear = |part: &str, (inputs, outputs), bias| {
            let name = format!("{name}.{part}");
            Linear::declare(
                layout,
                &name,
                (inputs, outputs),
                (Init::fan_in(inputs), bias),
            )
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
    pub(super) fn reserve(&self, memory: &Memory, (rows, batch): (usize, usize)) -> Saved {
        let attention = self.attention;
        let width = self.attention.width;
        let kept = if self.keep == Keep::All { rows } else { batch };
        Saved {
            moments_1: memory.exact(rows * MOMENTS),
            normed_1: memory.array(rows * width),
            qkv: memory.array(rows * 3 * width),
            probabilities: attention.reserve(memory, kept),
            attended: memory.array(kept * width),
            middle: memory.array(kept * width),
            moments_2: memory.exact(kept * MOMENTS),
            normed_2: memory.array(kept * width),
            fed: self.feed_forward.reserve(memory, kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: View<'_>,
        sequences: Sequences<'_>,
        x: View<'_>,
        y: ViewMut<'_>,
        (saved, scratch): (&mut Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let tokens = sequences.tokens();
        let kept = sequences.kept();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.row();
        let x = x.first(all);

        let mut y = y.first(few);

        let moments = saved.moments_1.first_mut(tokens * MOMENTS);
        self.norm_1
            .forward(values, x, saved.normed_1.first_mut(all), moments);
        let normed = saved.normed_1.first(all);
        let qkv = saved.qkv.first_mut(3 * all);

        self.qkv.forward(values, normed, qkv, Onto::Replace);
        let weights = (
            saved.probabilities.first_mut(row),
            scratch.dropped.first_mut(row),
        );

        let qkv = saved.qkv.first(3 * all);
        let attended = saved.attended.first_mut(few);
        self.attention
            .forward(sequences, Dropout::NONE, qkv, weights, attended);
        take(sequences, width, x, saved.middle.first_mut(few));
        let attended = saved.attended.first(few);

        self.out
            .forward(values, attended, saved.middle.first_mut(few), Onto::Add);

        let middle = saved.middle.first(few);
        let moments = saved.moments_2.first_mut(kept * MOMENTS);
        self.norm_2
            .forward(values, middle, saved.normed_2.first_mut(few), moments);
        y.copy_from(middle);
        self.feed_forward.forward(
            values,
            &mut saved.fed,
            saved.normed_2.first(few),
            y,
            Onto::Add,
        );
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        sequences: Sequences<'_>,
        x: View<'_>,
        (saved, scratch): (&Saved, &mut Scratch),
    ) {
        let sequences = sequences.keeping(self.keep);
        let tokens = sequences.tokens();
        let kept = sequences.kept();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.row();

        let Scratch {
            gradient,
            narrow,
            wide,
            qkv: dqkv,
            dropped,
            scores,
            ..
        } = scratch;

        let inner = (saved.normed_2.first(few), gradient.first(few));
        let dnormed = narrow.first_mut(few);
        let weights = (values, &mut *gradients);
        let fed = &saved.fed;
        self.feed_forward
            .backward(weights, fed, inner, wide, dnormed, Onto::Replace);
        let inner = (
            saved.middle.first(few),
            saved.moments_2.first(kept * MOMENTS),
        );

        let dnormed = narrow.first(few);
        let dmiddle = gradient.first_mut(few);
        self.norm_2
            .backward((values, gradients), inner, dnormed, dmiddle, Onto::Add);

        let attended = saved.attended.first(few);
        let dmiddle = gradient.first(few);
        let dattended = narrow.first_mut(few);
        self.out.backward(
            (values, gradients),
            attended,
            dmiddle,
            dattended,
            Onto::Replace,
        );

        let qkv = saved.qkv.first(3 * all);
        let probabilities = saved.probabilities.first(row);
        let inner = (qkv, probabilities, saved.attended.first(few));
        let memory = (dropped.first_mut(row), scores.first_mut(row));
        let dattended = narrow.first(few);
        let dqkv_mut = dqkv.first_mut(3 * all);

        self.attention
            .backward(sequences, Dropout::NONE, inner, dattended, memory, dqkv_mut);

        spread(sequences, width, gradient.first(few), narrow.first_mut(all));
        std::mem::swap(gradient, narrow);
        let normed = saved.normed_1.first(all);
        let dnormed = narrow.first_mut(all);
        self.qkv.backward(
            (values, gradients),
            normed,
            dqkv.first(3 * all),
            dnormed,
            Onto::Replace,
        );

        let inner = (x.first(all), saved.moments_1.first(tokens * MOMENTS));
        let dnormed = narrow.first(all);
        let dx = gradient.first_mut(all);
        self.norm_1
            .backward((values, gradients), inner, dnormed, dx, Onto::Add);
    }
}
