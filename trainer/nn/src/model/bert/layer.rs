//! One post-normalised layer of the text tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::Scratch;
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::rows::{Keep, Sequences, spread, take};
use cnclip_compute::params::{Init, Layout, Weight};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

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
    qkv: Array,
    probabilities: Array,
    attended: Array,
    sum_1: Array,
    moments_1: Array,
    middle: Array,
    sum_2: Array,
    moments_2: Array,
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
        let out = declare(
            layout,
            &format!("{name}.attention.output.dense"),
            (width, width),
        );

        let norm = format!("{name}.attention.output.LayerNorm");
        let norm_1 = LayerNorm::declare(layout, &norm, width, super::EPSILON);
        let up = declare(
            layout,
            &format!("{name}.intermediate.dense"),
            (width, hidden),
        );

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
    pub(super) fn reserve(&self, memory: &Memory, (rows, batch): (usize, usize)) -> Saved {
        let attention = self.attention;
        let width = self.attention.width;
        let kept = if self.keep == Keep::All { rows } else { batch };
        Saved {
            qkv: memory.array(rows * 3 * width),
            probabilities: attention.reserve(memory, kept),
            attended: memory.array(kept * width),
            sum_1: memory.array(kept * width),
            moments_1: memory.exact(kept * MOMENTS),
            middle: memory.array(kept * width),
            sum_2: memory.array(kept * width),
            moments_2: memory.exact(kept * MOMENTS),
            fed: self.feed_forward.reserve(memory, kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: View<'_>,
        (sequences, dropouts): (Sequences<'_>, Dropouts),
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

        let y = y.first(few);

        self.qkv
            .forward(values, x, saved.qkv.first_mut(3 * all), Onto::Replace);
        let weights = (
            saved.probabilities.first_mut(row),
            scratch.dropped.first_mut(row),
        );

        let qkv = saved.qkv.first(3 * all);
        let attended = saved.attended.first_mut(few);
        self.attention
            .forward(sequences, dropouts.attention, qkv, weights, attended);
        let attended = saved.attended.first(few);
        let sum = saved.sum_1.first_mut(few);

        self.out.forward(values, attended, sum, Onto::Replace);
        take(sequences, width, x, scratch.spare.first_mut(few));
        let sum = saved.sum_1.first_mut(few);
        let residual = scratch.spare.first(few);
        dropouts.attended.add(sequences, width, sum, residual);
        let sum = saved.sum_1.first(few);
        let moments = saved.moments_1.first_mut(kept * MOMENTS);

        self.norm_1
            .forward(values, sum, saved.middle.first_mut(few), moments);

        let middle = saved.middle.first(few);
        let sum = saved.sum_2.first_mut(few);
        self.feed_forward
            .forward(values, &mut saved.fed, middle, sum, Onto::Replace);
        dropouts
            .fed
            .add(sequences, width, saved.sum_2.first_mut(few), middle);

        let sum = saved.sum_2.first(few);
        let moments = saved.moments_2.first_mut(kept * MOMENTS);
        self.norm_2.forward(values, sum, y, moments);
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        (sequences, dropouts): (Sequences<'_>, Dropouts),
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
        let moments = kept * MOMENTS;

        let Scratch {
            gradient,
            narrow,
            spare,
            wide,
            qkv: dqkv,
            dropped,
            scores,
        } = scratch;

        let inner = (saved.sum_2.first(few), saved.moments_2.first(moments));
        let dy = gradient.first(few);
        let dsum = narrow.first_mut(few);
        self.norm_2
            .backward((values, gradients), inner, dy, dsum, Onto::Replace);
        dropouts
            .fed
            .apply(sequences, width, narrow.first(few), spare.first_mut(few));

        let inner = (saved.middle.first(few), spare.first(few));
        let dmiddle = narrow.first_mut(few);
        let weights = (values, &mut *gradients);
        let fed = &saved.fed;
        self.feed_forward
            .backward(weights, fed, inner, wide, dmiddle, Onto::Add);

        let inner = (saved.sum_1.first(few), saved.moments_1.first(moments));
        let dmiddle = narrow.first(few);
        let dsum = gradient.first_mut(few);
        self.norm_1
            .backward((values, gradients), inner, dmiddle, dsum, Onto::Replace);
        dropouts
            .attended
            .apply(sequences, width, gradient.first(few), spare.first_mut(few));

        let inner = (saved.attended.first(few), spare.first(few));
        let dattended = narrow.first_mut(few);
        self.out.backward(
            (values, gradients),
            inner.0,
            inner.1,
            dattended,
            Onto::Replace,
        );

        let qkv = saved.qkv.first(3 * all);
        let probabilities = saved.probabilities.first(row);
        let inner = (qkv, probabilities, saved.attended.first(few));
        let memory = (dropped.first_mut(row), scores.first_mut(row));
        let attention = &self.attention;
        let dattended = narrow.first(few);
        let dqkv_mut = dqkv.first_mut(3 * all);

        attention.backward(
            sequences,
            dropouts.attention,
            inner,
            dattended,
            memory,
            dqkv_mut,
        );

        spread(sequences, width, gradient.first(few), narrow.first_mut(all));
        let dqkv = dqkv.first(3 * all);
        let dx = narrow.first_mut(all);
        self.qkv
            .backward((values, gradients), x.first(all), dqkv, dx, Onto::Add);
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
        let rates = Rates {
            hidden: 0.5,
            attention: 0.5,
        };

        let dropout = Dropout::new(1, 2, 0);
        let mut masks = vec![dropout.at(0, rates.hidden)];
        for layer in 0..3 {
            let Dropouts {
                attention,
                attended,
                fed,
            } = rates.at(dropout, layer);

            masks.extend([attention, attended, fed]);
        }

        for (i, mask) in masks.iter().enumerate() {
            assert!(masks[..i].iter().all(|other| other != mask), "place {i}");
        }
    }
}
