//! Multi-head self-attention. Sequences of one length without padding are multiplied as batches; of
//! others a kernel multiplies each at its own length. What lies between the products is the same.

mod batched_gemm;

use batched_gemm::{BatchedMatrix, QkvLayout, gemm_per_head};

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::launch_arguments::max_pooled_rows;
use crate::ops::sequences::{Pooling, Sequences};

/// Rows of scores that one block takes: a warp each.
const ROWS_PER_BLOCK: usize = 8;

/// Writes `out`, and the probabilities that the backward needs; `dropped` is scratch.
///
/// # Shapes
/// As in [`Attention`].
pub fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: DeviceView<'_>,
    (probabilities, dropped): (&mut DeviceViewMut<'_>, &mut DeviceViewMut<'_>),
    out: &mut DeviceViewMut<'_>,
) {
    let part = QkvLayout::from_attention(attention);
    let scores = part.score_matrix(probabilities.as_view());
    let pair = (part.query_matrix(qkv), part.key_matrix(qkv).transposed());
    gemm_per_head(attention, sequences, scores, pair, softmax_scale(attention));
    softmax_forward(attention, sequences, dropout, probabilities, dropped);
    let weights = if dropout.is_active() {
        dropped.as_view()
    } else {
        probabilities.as_view()
    };

    let pair = (part.score_matrix(weights), part.value_matrix(qkv));
    gemm_per_head(
        attention,
        sequences,
        part.output_matrix(out.as_view()),
        pair,
        1.0,
    );
}

fn softmax_forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    probabilities: &mut DeviceViewMut<'_>,
    dropped: &mut DeviceViewMut<'_>,
) {
    let device = probabilities.device();
    let launch = score_row_kernel(
        "softmax_forward",
        attention,
        sequences,
        probabilities.as_view(),
    );

    let dropped = dropout.is_active().then(|| dropped.as_view());
    let launch = launch.arg_output(probabilities).arg_input_or_null(dropped);
    let launch = launch.arg_input_or_null(sequences.device_token_ids());
    let launch = launch
        .arg_u32(attention.heads)
        .arg_u32(attention.max_tokens);
    launch
        .arg_sequences(sequences)
        .arg_dropout(dropout)
        .launch_on(device);
}

/// Writes `dqkv`; `dropped` and `dscores` are scratch of the shape of `probabilities`.
///
/// # Shapes
/// As in [`Attention`].
pub fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    (qkv, probabilities): (DeviceView<'_>, DeviceView<'_>),
    dout: DeviceView<'_>,
    (dropped, dscores): (&mut DeviceViewMut<'_>, &mut DeviceViewMut<'_>),
    dqkv: &mut DeviceViewMut<'_>,
) {
    if sequences.pooling() == Pooling::FirstToken {
        // Queries of tokens that do not go on have no gradient.
        dqkv.fill_zeros();
    }

    let part = QkvLayout::from_attention(attention);
    let dout = part.output_matrix(dout);
    let write = |target: BatchedMatrix<'_>, pair, scale| {
        gemm_per_head(attention, sequences, target, pair, scale)
    };
    write(
        part.score_matrix(dscores.as_view()),
        (dout, part.value_matrix(qkv).transposed()),
        1.0,
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

    let weights = part.score_matrix(weights);
    let dscores = part.score_matrix(dscores.as_view());
    write(
        part.value_matrix(dqkv.as_view()),
        (weights.transposed(), dout),
        1.0,
    );
    write(
        part.query_matrix(dqkv.as_view()),
        (dscores, part.key_matrix(qkv)),
        1.0,
    );
    write(
        part.key_matrix(dqkv.as_view()),
        (dscores.transposed(), part.query_matrix(qkv)),
        1.0,
    );
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
    let launch = score_row_kernel("softmax_backward", attention, sequences, probabilities);
    let dropped = dropout.is_active().then(|| dropped.as_view());
    let launch = launch
        .arg_input(probabilities)
        .arg_input_or_null(dropped)
        .arg_output(dscores);

    let launch = launch
        .arg_u32(attention.heads)
        .arg_u32(attention.max_tokens)
        .arg_f32(softmax_scale(attention));

    launch
        .arg_sequences(sequences)
        .arg_dropout(dropout)
        .launch_on(device);
}

/// A kernel that gives every row of every head's scores a warp.
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

fn softmax_scale(attention: &Attention) -> f32 {
    1.0 / ((attention.width / attention.heads) as f32).sqrt()
}
