//! Multi-head self-attention in bfloat16 that never holds its probabilities: it keeps one number for each
//! query and head, and makes the scores again in the backward. For heads of the published models' widths.
//!
//! # Source
//! Dao, FlashAttention-2 (2023).

use cnclip_crds::stage::Precision;

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::launch_arguments::{max_pooled_rows, max_sequence_len};
use crate::ops::sequences::Sequences;

/// Widths of heads that there are kernels for.
const HEAD_WIDTHS: [usize; 2] = [64, 80];
/// Queries, or keys, of one block.
const TILE_ROWS: usize = 64;
/// Threads of one block.
const THREADS_PER_BLOCK: usize = 128;

/// Whether there are kernels for heads of a width.
pub fn is_supported(precision: Precision, head_width: usize) -> bool {
    precision == Precision::Bf16 && HEAD_WIDTHS.contains(&head_width)
}

/// Writes `out`, and the logarithms of the sums that the backward needs.
///
/// # Shapes
/// `qkv` [tokens, 3 · width], `log_sums` [kept, heads], `out` [kept, width].
pub fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: DeviceView<'_>,
    log_sums: &mut DeviceViewMut<'_>,
    out: &mut DeviceViewMut<'_>,
) {
    let device = qkv.device();
    let launch =
        flash_kernel("forward", attention, sequences, max_pooled_rows(sequences)).arg_input(qkv);
    let launch = launch
        .arg_input_or_null(sequences.device_token_ids())
        .arg_output(out)
        .arg_output(log_sums);

    with_common_args(launch, attention, sequences, dropout).launch_on(device);
}

/// Writes `dqkv`; `along` is scratch of the shape of `log_sums`.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    (qkv, log_sums, out): (DeviceView<'_>, DeviceView<'_>, DeviceView<'_>),
    dout: DeviceView<'_>,
    along: &mut DeviceViewMut<'_>,
    dqkv: &mut DeviceViewMut<'_>,
) {
    let device = qkv.device();
    let pairs = log_sums.len();
    let width = attention.width / attention.heads;
    let means = KernelLaunch::new("flash_along").with_threads(THREADS_PER_BLOCK);
    let means = means
        .with_grid(pairs.div_ceil(THREADS_PER_BLOCK / 32), 1, 1)
        .arg_input(out)
        .arg_input(dout);

    means
        .arg_output(along)
        .arg_u32(pairs)
        .arg_u32(width)
        .launch_on(device);
    for kernel in ["backward_keys", "backward_queries"] {
        let launch =
            flash_kernel(kernel, attention, sequences, max_sequence_len(sequences)).arg_input(qkv);
        let launch = launch
            .arg_input_or_null(sequences.device_token_ids())
            .arg_input(dout)
            .arg_input(log_sums);

        let launch = launch.arg_input(along.as_view()).arg_output(dqkv);
        with_common_args(launch, attention, sequences, dropout).launch_on(device);
    }
}

/// A kernel that gives every so many rows of every head of every sequence a block.
fn flash_kernel(
    name: &str,
    attention: &Attention,
    sequences: Sequences<'_>,
    rows: usize,
) -> KernelLaunch {
    let width = attention.width / attention.heads;
    let launch =
        KernelLaunch::new(&format!("flash_{name}_{width}")).with_threads(THREADS_PER_BLOCK);
    launch.with_grid(
        rows.div_ceil(TILE_ROWS),
        attention.heads,
        sequences.sequence_count(),
    )
}

/// What all kernels are given last.
fn with_common_args(
    launch: KernelLaunch,
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
) -> KernelLaunch {
    let scale = 1.0 / ((attention.width / attention.heads) as f32).sqrt();
    let launch = launch
        .arg_u32(attention.width)
        .arg_u32(attention.max_tokens)
        .arg_f32(scale);

    launch.arg_sequences(sequences).arg_dropout(dropout)
}
