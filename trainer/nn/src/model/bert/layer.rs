//! One post-normalised layer of the text tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::TransformerScratch;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::sequences::{Pooling, Sequences, gather_rows, scatter_rows};
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// `m = norm(x + attention(x))`, `y = norm(m + feed_forward(m))`, with dropout before both sums.
///
/// # Shapes
/// `x` [tokens, width], `y` [kept, width]: the last layer goes on with the first token alone.
#[derive(Debug)]
pub(super) struct BertLayer {
    attention: Attention,
    qkv: Linear,
    out: Linear,
    norm_1: LayerNorm,
    feed_forward: FeedForward,
    norm_2: LayerNorm,
    pooling: Pooling,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct BertLayerCache {
    qkv: Tensor,
    probabilities: Tensor,
    attended: Tensor,
    sum_1: Tensor,
    moments_1: Tensor,
    middle: Tensor,
    sum_2: Tensor,
    moments_2: Tensor,
    fed: feed_forward::FeedForwardCache,
}

/// Where the values of one layer are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerDropouts {
    /// Attention probabilities.
    pub(super) attention: Dropout,
    /// What attention gives.
    pub(super) attended: Dropout,
    /// What the feed-forward part gives.
    pub(super) fed: Dropout,
}

/// Which shares of the values are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct DropoutRates {
    /// Of hidden values.
    pub(super) hidden: f32,
    /// Of attention probabilities.
    pub(super) attention: f32,
}

impl DropoutRates {
    /// The dropouts of one layer. Site 0 is the embeddings'; each layer has three.
    pub(super) fn layer_dropouts(self, dropout: Dropout, layer: usize) -> LayerDropouts {
        let site = 1 + 3 * layer as u64;
        LayerDropouts {
            attention: dropout.at_site(site, self.attention),
            attended: dropout.at_site(site + 1, self.hidden),
            fed: dropout.at_site(site + 2, self.hidden),
        }
    }
}

impl BertLayer {
    /// Declares layer `layer`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        layer: usize,
        attention: Attention,
        hidden: usize,
        keep: Pooling,
    ) -> Self {
        let name = format!("bert.encoder.layer.{layer}");
        let width = attention.width;
        let qkv = declare_qkv(layout, &format!("{name}.attention.self"), width);
        let out = declare_linear(
            layout,
            &format!("{name}.attention.output.dense"),
            (width, width),
        );

        let norm = format!("{name}.attention.output.LayerNorm");
        let norm_1 = LayerNorm::declare_params(layout, &norm, width, super::LAYER_NORM_EPSILON);
        let up = declare_linear(
            layout,
            &format!("{name}.intermediate.dense"),
            (width, hidden),
        );

        let down = declare_linear(layout, &format!("{name}.output.dense"), (hidden, width));
        let norm = format!("{name}.output.LayerNorm");
        Self {
            attention,
            qkv,
            out,
            norm_1,
            feed_forward: FeedForward::new(up, down, Activation::Gelu),
            norm_2: LayerNorm::declare_params(layout, &norm, width, super::LAYER_NORM_EPSILON),
            pooling: keep,
        }
    }

    /// Memory for what is kept of so many tokens of so many texts.
    pub(super) fn alloc_cache(
        &self,
        memory: &Memory,
        (rows, batch): (usize, usize),
    ) -> BertLayerCache {
        let attention = self.attention;
        let width = self.attention.width;
        let kept = if self.pooling == Pooling::AllTokens {
            rows
        } else {
            batch
        };
        BertLayerCache {
            qkv: memory.alloc_activations(rows * 3 * width),
            probabilities: attention.alloc_probabilities(memory, kept),
            attended: memory.alloc_activations(kept * width),
            sum_1: memory.alloc_activations(kept * width),
            moments_1: memory.alloc_f32(kept * MOMENTS_PER_ROW),
            middle: memory.alloc_activations(kept * width),
            sum_2: memory.alloc_activations(kept * width),
            moments_2: memory.alloc_f32(kept * MOMENTS_PER_ROW),
            fed: self.feed_forward.alloc_cache(memory, kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: TensorView<'_>,
        (sequences, dropouts): (Sequences<'_>, LayerDropouts),
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        (saved, scratch): (&mut BertLayerCache, &mut TransformerScratch),
    ) {
        let sequences = sequences.with_pooling(self.pooling);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.probabilities_per_token();
        let x = x.first_n(all);

        let y = y.first_n(few);

        self.qkv
            .forward(values, x, saved.qkv.first_n_mut(3 * all), Accumulate::No);
        let weights = (
            saved.probabilities.first_n_mut(row),
            scratch.dropped.first_n_mut(row),
        );

        let qkv = saved.qkv.first_n(3 * all);
        let attended = saved.attended.first_n_mut(few);
        self.attention
            .forward(sequences, dropouts.attention, qkv, weights, attended);
        let attended = saved.attended.first_n(few);
        let sum = saved.sum_1.first_n_mut(few);

        self.out.forward(values, attended, sum, Accumulate::No);
        gather_rows(sequences, width, x, scratch.spare.first_n_mut(few));
        let sum = saved.sum_1.first_n_mut(few);
        let residual = scratch.spare.first_n(few);
        dropouts
            .attended
            .mask_and_add(sequences, width, sum, residual);
        let sum = saved.sum_1.first_n(few);
        let moments = saved.moments_1.first_n_mut(kept * MOMENTS_PER_ROW);

        self.norm_1
            .forward(values, sum, saved.middle.first_n_mut(few), moments);

        let middle = saved.middle.first_n(few);
        let sum = saved.sum_2.first_n_mut(few);
        self.feed_forward
            .forward(values, &mut saved.fed, middle, sum, Accumulate::No);
        dropouts
            .fed
            .mask_and_add(sequences, width, saved.sum_2.first_n_mut(few), middle);

        let sum = saved.sum_2.first_n(few);
        let moments = saved.moments_2.first_n_mut(kept * MOMENTS_PER_ROW);
        self.norm_2.forward(values, sum, y, moments);
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        (sequences, dropouts): (Sequences<'_>, LayerDropouts),
        x: TensorView<'_>,
        (saved, scratch): (&BertLayerCache, &mut TransformerScratch),
    ) {
        let sequences = sequences.with_pooling(self.pooling);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.probabilities_per_token();
        let moments = kept * MOMENTS_PER_ROW;

        let TransformerScratch {
            gradient,
            narrow,
            spare,
            wide,
            qkv: dqkv,
            dropped,
            scores,
        } = scratch;

        let inner = (saved.sum_2.first_n(few), saved.moments_2.first_n(moments));
        let dy = gradient.first_n(few);
        let dsum = narrow.first_n_mut(few);
        self.norm_2
            .backward((values, gradients), inner, dy, dsum, Accumulate::No);
        dropouts.fed.apply_mask(
            sequences,
            width,
            narrow.first_n(few),
            spare.first_n_mut(few),
        );

        let inner = (saved.middle.first_n(few), spare.first_n(few));
        let dmiddle = narrow.first_n_mut(few);
        let weights = (values, &mut *gradients);
        let fed = &saved.fed;
        self.feed_forward
            .backward(weights, fed, inner, wide, dmiddle, Accumulate::Yes);

        let inner = (saved.sum_1.first_n(few), saved.moments_1.first_n(moments));
        let dmiddle = narrow.first_n(few);
        let dsum = gradient.first_n_mut(few);
        self.norm_1
            .backward((values, gradients), inner, dmiddle, dsum, Accumulate::No);
        dropouts.attended.apply_mask(
            sequences,
            width,
            gradient.first_n(few),
            spare.first_n_mut(few),
        );

        let inner = (saved.attended.first_n(few), spare.first_n(few));
        let dattended = narrow.first_n_mut(few);
        self.out.backward(
            (values, gradients),
            inner.0,
            inner.1,
            dattended,
            Accumulate::No,
        );

        let qkv = saved.qkv.first_n(3 * all);
        let probabilities = saved.probabilities.first_n(row);
        let inner = (qkv, probabilities, saved.attended.first_n(few));
        let memory = (dropped.first_n_mut(row), scores.first_n_mut(row));
        let attention = &self.attention;
        let dattended = narrow.first_n(few);
        let dqkv_mut = dqkv.first_n_mut(3 * all);

        attention.backward(
            sequences,
            dropouts.attention,
            inner,
            dattended,
            memory,
            dqkv_mut,
        );

        scatter_rows(
            sequences,
            width,
            gradient.first_n(few),
            narrow.first_n_mut(all),
        );
        let dqkv = dqkv.first_n(3 * all);
        let dx = narrow.first_n_mut(all);
        self.qkv.backward(
            (values, gradients),
            x.first_n(all),
            dqkv,
            dx,
            Accumulate::Yes,
        );
        std::mem::swap(gradient, narrow);
    }
}

/// The standard deviation that BERT starts with.
const WEIGHT_INIT: ParamInit = ParamInit::Normal(0.02);

fn declare_linear(layout: &mut ParamLayout, name: &str, sizes: (usize, usize)) -> Linear {
    Linear::declare_params(layout, name, sizes, (WEIGHT_INIT, ParamInit::Zeros))
}

/// Query, key and value: three tensors by name, one matrix to multiply with.
fn declare_qkv(layout: &mut ParamLayout, name: &str, width: usize) -> Linear {
    let mut three = |part: &str, shape: &[usize], init| {
        let names = ["query", "key", "value"].map(|which| format!("{name}.{which}.{part}"));
        Weight::join_adjacent(&names.map(|name| layout.register_weight(&name, shape, init)))
    };

    let weight = three("weight", &[width, width], WEIGHT_INIT);
    let bias = three("bias", &[width], ParamInit::Zeros);
    Linear::new(weight, Some(bias), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_every_layer_drops_by_itself() {
        let rates = DropoutRates {
            hidden: 0.5,
            attention: 0.5,
        };

        let dropout = Dropout::new(1, 2, 0);
        let mut masks = vec![dropout.at_site(0, rates.hidden)];
        for layer in 0..3 {
            let LayerDropouts {
                attention,
                attended,
                fed,
            } = rates.layer_dropouts(dropout, layer);

            masks.extend([attention, attended, fed]);
        }

        for (i, mask) in masks.iter().enumerate() {
            assert!(masks[..i].iter().all(|other| other != mask), "place {i}");
        }
    }
}
