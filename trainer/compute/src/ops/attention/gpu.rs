//! Attention on a device that writes its probabilities to memory. Sequences of one length without padding
//! are multiplied as batches; for others a kernel multiplies each at its own length. The softmax between
//! the products is the same for both.

use super::Attention;
use super::batched_gemm::{BatchedMatrix, QkvLayout, gemm_per_head};
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::dropout::Dropout;
use crate::ops::launch_arguments::max_pooled_rows;
use crate::ops::sequences::{Pooling, Sequences};

/// Rows of scores that one block takes: a warp each.
const ROWS_PER_BLOCK: usize = 8;

/// What the backward needs of the forward.
#[derive(Clone, Copy)]
pub(super) struct DeviceCache<'a> {
    pub(super) qkv: DeviceView<'a>,
    pub(super) probabilities: DeviceView<'a>,
}

/// Memory of the shape of the probabilities, which holds nothing between calls.
pub(super) struct DeviceScratch<'a, 'b> {
    pub(super) dropped: &'a mut DeviceViewMut<'b>,
    pub(super) dscores: &'a mut DeviceViewMut<'b>,
}

/// Writes `out`, and the probabilities that the backward needs; `dropped` is scratch.
pub(super) fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: DeviceView<'_>,
    probabilities: &mut DeviceViewMut<'_>,
    dropped: &mut DeviceViewMut<'_>,
    out: &mut DeviceViewMut<'_>,
) {
    let layout = QkvLayout::from_attention(attention);
    let product =
        |target: BatchedMatrix<'_>, a: BatchedMatrix<'_>, b: BatchedMatrix<'_>, scale: f32| {
            gemm_per_head(attention, sequences, target, a, b, scale)
        };

    // Scores are written where the probabilities will be: the softmax works in place.
    let scores = layout.score_matrix(probabilities.as_view());
    let queries = layout.query_matrix(qkv);
    let keys = layout.key_matrix(qkv);
    product(
        scores,
        queries,
        keys.transposed(),
        attention.softmax_scale(),
    );

    softmax_forward(attention, sequences, dropout, probabilities, dropped);
    let weights = if dropout.is_active() {
        dropped.as_view()
    } else {
        probabilities.as_view()
    };

    let weights = layout.score_matrix(weights);
    let out = layout.output_matrix(out.as_view());
    product(out, weights, layout.value_matrix(qkv), 1.0);
}

fn softmax_forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    probabilities: &mut DeviceViewMut<'_>,
    dropped: &mut DeviceViewMut<'_>,
) {
    let device = probabilities.device();
    let dropped = dropout.is_active().then(|| dropped.as_view());
    let scores = probabilities.as_view();
    score_row_kernel("softmax_forward", attention, sequences, scores)
        .arg_output(probabilities)
        .arg_input_or_null(dropped)
        .arg_input_or_null(sequences.device_token_ids())
        .arg_u32(attention.heads)
        .arg_u32(attention.max_tokens)
        .arg_sequences(sequences)
        .arg_dropout(dropout)
        .launch_on(device);
}

/// Writes `dqkv`.
pub(super) fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    cache: DeviceCache<'_>,
    dout: DeviceView<'_>,
    scratch: DeviceScratch<'_, '_>,
    dqkv: &mut DeviceViewMut<'_>,
) {
    let DeviceCache { qkv, probabilities } = cache;
    let DeviceScratch { dropped, dscores } = scratch;
    if sequences.pooling() == Pooling::FirstToken {
        // Queries of tokens that are not pooled have no gradient.
        dqkv.fill_zeros();
    }

    let layout = QkvLayout::from_attention(attention);
    let dout = layout.output_matrix(dout);
    let product = |target: BatchedMatrix<'_>, a: BatchedMatrix<'_>, b: BatchedMatrix<'_>| {
        gemm_per_head(attention, sequences, target, a, b, 1.0)
    };

    let values = layout.value_matrix(qkv);
    product(
        layout.score_matrix(dscores.as_view()),
        dout,
        values.transposed(),
    );

    softmax_backward(
        attention,
        sequences,
        dropout,
        probabilities,
        dropped,
        dscores,
    );
    let weights = if dropout.is_active() {
        dropped.as_view()
    } else {
        probabilities
    };

    let weights = layout.score_matrix(weights);
    let dscores = layout.score_matrix(dscores.as_view());
    let dq = layout.query_matrix(dqkv.as_view());
    let dk = layout.key_matrix(dqkv.as_view());
    let dv = layout.value_matrix(dqkv.as_view());
    // After the backward of the softmax, which writes the dropped probabilities again.
    product(dv, weights.transposed(), dout);
    product(dq, dscores, layout.key_matrix(qkv));
    product(dk, dscores.transposed(), layout.query_matrix(qkv));
}

/// `dscores` holds the gradient of the dropped probabilities, and becomes that of `q · kᵀ`.
fn softmax_backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    probabilities: DeviceView<'_>,
    dropped: &mut DeviceViewMut<'_>,
    dscores: &mut DeviceViewMut<'_>,
) {
    let device = dscores.device();
    let dropped = dropout.is_active().then(|| dropped.as_view());
    score_row_kernel("softmax_backward", attention, sequences, probabilities)
        .arg_input(probabilities)
        .arg_input_or_null(dropped)
        .arg_output(dscores)
        .arg_u32(attention.heads)
        .arg_u32(attention.max_tokens)
        .arg_f32(attention.softmax_scale())
        .arg_sequences(sequences)
        .arg_dropout(dropout)
        .launch_on(device);
}

/// A kernel with a warp for every row of every head's scores.
fn score_row_kernel(
    name: &str,
    attention: &Attention,
    sequences: Sequences<'_>,
    probabilities: DeviceView<'_>,
) -> KernelLaunch {
    let blocks = (max_pooled_rows(sequences) * attention.heads).div_ceil(ROWS_PER_BLOCK);
    KernelLaunch::for_dtype(name, probabilities.dtype()).with_grid(
        sequences.sequence_count(),
        blocks,
        1,
    )
}
