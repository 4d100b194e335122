//! One pre-normalised block of the image tower.

use crate::model::feed_forward::{self, FeedForward};
use crate::model::scratch::TransformerScratch;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::sequences::{Pooling, Sequences, gather_rows, scatter_rows};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// `m = x + attention(norm(x))`, `y = m + feed_forward(norm(m))`.
///
/// # Shapes
/// `x` [tokens, width], `y` [kept, width]: the last block goes on with the class token alone.
#[derive(Debug)]
pub(super) struct VitBlock {
    attention: Attention,
    norm_1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm_2: LayerNorm,
    feed_forward: FeedForward,
    pooling: Pooling,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct VitBlockCache {
    moments_1: Tensor,
    normed_1: Tensor,
    qkv: Tensor,
    probabilities: Tensor,
    attended: Tensor,
    middle: Tensor,
    moments_2: Tensor,
    normed_2: Tensor,
    fed: feed_forward::FeedForwardCache,
}

impl VitBlock {
    /// Declares block `layer`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        layer: usize,
        attention: Attention,
        keep: Pooling,
    ) -> Self {
        let name = format!("visual.transformer.resblocks.{layer}");
        let width = attention.width;
        let hidden = 4 * attention.width;
        let norm_1 = LayerNorm::declare_params(
            layout,
            &format!("{name}.ln_1"),
            width,
            super::LAYER_NORM_EPSILON,
        );
        let shape = [3 * width, width];
        let glorot = ParamInit::xavier_uniform(width, 3 * width);
        let weight = layout.register_weight(&format!("{name}.attn.in_proj_weight"), &shape, glorot);
        let bias = layout.register_weight(
            &format!("{name}.attn.in_proj_bias"),
            &[3 * width],
            ParamInit::Zeros,
        );

        let mut linear = |part: &str, (inputs, outputs), bias| {
            let name = format!("{name}.{part}");
            Linear::declare_params(
                layout,
                &name,
                (inputs, outputs),
                (ParamInit::uniform_fan_in(inputs), bias),
            )
        };

        let out = linear("attn.out_proj", (width, width), ParamInit::Zeros);
        let up = linear(
            "mlp.c_fc",
            (width, hidden),
            ParamInit::uniform_fan_in(width),
        );
        let down = linear(
            "mlp.c_proj",
            (hidden, width),
            ParamInit::uniform_fan_in(hidden),
        );
        Self {
            attention,
            norm_1,
            qkv: Linear::new(weight, Some(bias), width),
            out,
            norm_2: LayerNorm::declare_params(
                layout,
                &format!("{name}.ln_2"),
                width,
                super::LAYER_NORM_EPSILON,
            ),
            feed_forward: FeedForward::new(up, down, Activation::QuickGelu),
            pooling: keep,
        }
    }

    /// Memory for what is kept of so many tokens of so many pictures.
    pub(super) fn alloc_cache(
        &self,
        memory: &Memory,
        (rows, batch): (usize, usize),
    ) -> VitBlockCache {
        let attention = self.attention;
        let width = self.attention.width;
        let kept = if self.pooling == Pooling::AllTokens {
            rows
        } else {
            batch
        };
        VitBlockCache {
            moments_1: memory.alloc_f32(rows * MOMENTS_PER_ROW),
            normed_1: memory.alloc_activations(rows * width),
            qkv: memory.alloc_activations(rows * 3 * width),
            probabilities: attention.alloc_probabilities(memory, kept),
            attended: memory.alloc_activations(kept * width),
            middle: memory.alloc_activations(kept * width),
            moments_2: memory.alloc_f32(kept * MOMENTS_PER_ROW),
            normed_2: memory.alloc_activations(kept * width),
            fed: self.feed_forward.alloc_cache(memory, kept),
        }
    }

    /// Writes `y`.
    pub(super) fn forward(
        &self,
        values: TensorView<'_>,
        sequences: Sequences<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        (saved, scratch): (&mut VitBlockCache, &mut TransformerScratch),
    ) {
        let sequences = sequences.with_pooling(self.pooling);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.probabilities_per_token();
        let x = x.first_n(all);

        let mut y = y.first_n(few);

        let moments = saved.moments_1.first_n_mut(tokens * MOMENTS_PER_ROW);
        self.norm_1
            .forward(values, x, saved.normed_1.first_n_mut(all), moments);
        let normed = saved.normed_1.first_n(all);
        let qkv = saved.qkv.first_n_mut(3 * all);

        self.qkv.forward(values, normed, qkv, Accumulate::No);
        let weights = (
            saved.probabilities.first_n_mut(row),
            scratch.dropped.first_n_mut(row),
        );

        let qkv = saved.qkv.first_n(3 * all);
        let attended = saved.attended.first_n_mut(few);
        self.attention
            .forward(sequences, Dropout::NONE, qkv, weights, attended);
        gather_rows(sequences, width, x, saved.middle.first_n_mut(few));
        let attended = saved.attended.first_n(few);

        self.out.forward(
            values,
            attended,
            saved.middle.first_n_mut(few),
            Accumulate::Yes,
        );

        let middle = saved.middle.first_n(few);
        let moments = saved.moments_2.first_n_mut(kept * MOMENTS_PER_ROW);
        self.norm_2
            .forward(values, middle, saved.normed_2.first_n_mut(few), moments);
        y.copy_from(middle);
        self.feed_forward.forward(
            values,
            &mut saved.fed,
            saved.normed_2.first_n(few),
            y,
            Accumulate::Yes,
        );
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        sequences: Sequences<'_>,
        x: TensorView<'_>,
        (saved, scratch): (&VitBlockCache, &mut TransformerScratch),
    ) {
        let sequences = sequences.with_pooling(self.pooling);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let width = self.attention.width;
        let all = tokens * width;
        let few = kept * width;
        let row = kept * self.attention.probabilities_per_token();

        let TransformerScratch {
            gradient,
            narrow,
            wide,
            qkv: dqkv,
            dropped,
            scores,
            ..
        } = scratch;

        let inner = (saved.normed_2.first_n(few), gradient.first_n(few));
        let dnormed = narrow.first_n_mut(few);
        let weights = (values, &mut *gradients);
        let fed = &saved.fed;
        self.feed_forward
            .backward(weights, fed, inner, wide, dnormed, Accumulate::No);
        let inner = (
            saved.middle.first_n(few),
            saved.moments_2.first_n(kept * MOMENTS_PER_ROW),
        );

        let dnormed = narrow.first_n(few);
        let dmiddle = gradient.first_n_mut(few);
        self.norm_2.backward(
            (values, gradients),
            inner,
            dnormed,
            dmiddle,
            Accumulate::Yes,
        );

        let attended = saved.attended.first_n(few);
        let dmiddle = gradient.first_n(few);
        let dattended = narrow.first_n_mut(few);
        self.out.backward(
            (values, gradients),
            attended,
            dmiddle,
            dattended,
            Accumulate::No,
        );

        let qkv = saved.qkv.first_n(3 * all);
        let probabilities = saved.probabilities.first_n(row);
        let inner = (qkv, probabilities, saved.attended.first_n(few));
        let memory = (dropped.first_n_mut(row), scores.first_n_mut(row));
        let dattended = narrow.first_n(few);
        let dqkv_mut = dqkv.first_n_mut(3 * all);

        self.attention
            .backward(sequences, Dropout::NONE, inner, dattended, memory, dqkv_mut);

        scatter_rows(
            sequences,
            width,
            gradient.first_n(few),
            narrow.first_n_mut(all),
        );
        std::mem::swap(gradient, narrow);
        let normed = saved.normed_1.first_n(all);
        let dnormed = narrow.first_n_mut(all);
        self.qkv.backward(
            (values, gradients),
            normed,
            dqkv.first_n(3 * all),
            dnormed,
            Accumulate::No,
        );

        let inner = (
            x.first_n(all),
            saved.moments_1.first_n(tokens * MOMENTS_PER_ROW),
        );
        let dnormed = narrow.first_n(all);
        let dx = gradient.first_n_mut(all);
        self.norm_1
            .backward((values, gradients), inner, dnormed, dx, Accumulate::Yes);
    }
}
