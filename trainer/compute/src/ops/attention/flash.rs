//! Flash attention on a device: bfloat16 attention that never writes its probabilities to memory. It keeps
//! the logarithm of the softmax's denominator for each query and head, and computes the scores again in the
//! backward.
//!
//! # Source
//! Dao, FlashAttention-2 (2023).

use cnclip_crds::stage::Precision;

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::launch_arguments::{max_pooled_rows, max_sequence_len};
use crate::ops::sequences::Sequences;

/// Head widths that there are kernels for: those of the published models.
const HEAD_WIDTHS: [usize; 2] = [64, 80];
/// Queries, or keys, of one block: `QUERIES` and `KEYS` of the kernel.
const TILE_ROWS: usize = 64;
/// Threads of one block: `THREADS` of the kernel.
const THREADS_PER_BLOCK: usize = 128;

/// Whether a device has flash attention for a number format and a head width.
pub fn is_supported(precision: Precision, head_width: usize) -> bool {
    precision == Precision::Bf16 && HEAD_WIDTHS.contains(&head_width)
}

/// What the backward needs of the forward.
///
/// # Shapes
/// `qkv` `[tokens, 3 · width]`, `log_sums` `[pooled tokens, heads]`, `out` `[pooled tokens, width]`.
#[derive(Clone, Copy)]
pub(super) struct FlashCache<'a> {
    pub(super) qkv: DeviceView<'a>,
    pub(super) log_sums: DeviceView<'a>,
    pub(super) out: DeviceView<'a>,
}

/// Writes `out`, and the logarithms of the denominators that the backward needs.
///
/// # Shapes
/// As in [`FlashCache`].
pub(super) fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: DeviceView<'_>,
    log_sums: &mut DeviceViewMut<'_>,
    out: &mut DeviceViewMut<'_>,
) {
    let device = qkv.device();
    let rows = max_pooled_rows(sequences);
    let launch = flash_kernel("forward", attention, sequences, rows)
        .arg_input(qkv)
        .arg_input_or_null(sequences.device_token_ids())
        .arg_output(out)
        .arg_output(log_sums);

    with_common_args(launch, attention, sequences, dropout).launch_on(device);
}

/// Writes `dqkv`; `row_dots` is scratch of the shape of `log_sums`.
pub(super) fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    cache: FlashCache<'_>,
    dout: DeviceView<'_>,
    row_dots: &mut DeviceViewMut<'_>,
    dqkv: &mut DeviceViewMut<'_>,
) {
    let FlashCache { qkv, log_sums, out } = cache;
    let device = qkv.device();
    let pairs = log_sums.len();

    // `dout · out` of every row first: both kernels below need it, and each would compute it many times.
    KernelLaunch::new("flash_along")
        .with_threads(THREADS_PER_BLOCK)
        .with_grid(pairs.div_ceil(THREADS_PER_BLOCK / 32), 1, 1)
        .arg_input(out)
        .arg_input(dout)
        .arg_output(row_dots)
        .arg_u32(pairs)
        .arg_u32(attention.head_width())
        .launch_on(device);

    // Two kernels, one over keys and one over queries: a single one would have to add the gradients of
    // queries with atomics, in an order that differs from run to run.
    for kernel in ["backward_keys", "backward_queries"] {
        // All tokens, not only pooled ones: keys of all have gradients, and the queries of the
        // others are written as zeros.
        let rows = max_sequence_len(sequences);
        let launch = flash_kernel(kernel, attention, sequences, rows)
            .arg_input(qkv)
            .arg_input_or_null(sequences.device_token_ids())
            .arg_input(dout)
            .arg_input(log_sums)
            .arg_input(row_dots.as_view())
            .arg_output(dqkv);

        with_common_args(launch, attention, sequences, dropout).launch_on(device);
    }
}

/// A block for every 64 rows of every head of every sequence.
fn flash_kernel(
    name: &str,
    attention: &Attention,
    sequences: Sequences<'_>,
    rows: usize,
) -> KernelLaunch {
    let row_blocks = rows.div_ceil(TILE_ROWS);
    KernelLaunch::new(&format!("flash_{name}_{}", attention.head_width()))
        .with_threads(THREADS_PER_BLOCK)
        .with_grid(row_blocks, attention.heads, sequences.sequence_count())
}

/// The last arguments of all three kernels.
fn with_common_args(
    launch: KernelLaunch,
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
) -> KernelLaunch {
    launch
        .arg_u32(attention.width)
        .arg_u32(attention.max_tokens)
        .arg_f32(attention.softmax_scale())
        .arg_sequences(sequences)
        .arg_dropout(dropout)
}
