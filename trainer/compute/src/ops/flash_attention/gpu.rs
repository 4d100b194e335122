//! Multi-head self-attention in bfloat16 that never holds its probabilities: it keeps one number for each
//! query and head, and makes the scores again in the backward. For heads of the published models' widths.
//!
//! # Source
//! Dao, FlashAttention-2 (2023).

use cnclip_crds::stage::Precision;

use crate::device::{Launch, Span, SpanMut};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::rows::Sequences;
use crate::ops::sequences::{longest, most_kept};

/// Widths of heads that there are kernels for.
const WIDTHS: [usize; 2] = [64, 80];
/// Queries, or keys, of one block.
const TILE: usize = 64;
/// Threads of one block.
const THREADS: usize = 128;

/// Whether there are kernels for heads of a width.
pub fn serves(precision: Precision, head_width: usize) -> bool {
    precision == Precision::Bf16 && WIDTHS.contains(&head_width)
}

/// Writes `out`, and the logarithms of the sums that the backward needs.
///
/// # Shapes
/// `qkv` [tokens, 3 · width], `log_sums` [kept, heads], `out` [kept, width].
pub fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: Span<'_>,
    log_sums: &mut SpanMut<'_>,
    out: &mut SpanMut<'_>,
) {
    let device = qkv.device();
    let launch = launch("forward", attention, sequences, most_kept(sequences)).read(qkv);
    let launch = launch
        .read_or_null(sequences.padded_on_device())
        .write(out)
        .write(log_sums);

    rest(launch, attention, sequences, dropout).run(device);
}

/// Writes `dqkv`; `along` is scratch of the shape of `log_sums`.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    (qkv, log_sums, out): (Span<'_>, Span<'_>, Span<'_>),
    dout: Span<'_>,
    along: &mut SpanMut<'_>,
    dqkv: &mut SpanMut<'_>,
) {
    let device = qkv.device();
    let pairs = log_sums.len();
    let width = attention.width / attention.heads;
    let means = Launch::new("flash_along").threads(THREADS);
    let means = means
        .grid(pairs.div_ceil(THREADS / 32), 1, 1)
        .read(out)
        .read(dout);

    means.write(along).whole(pairs).whole(width).run(device);
    for kernel in ["backward_keys", "backward_queries"] {
        let launch = launch(kernel, attention, sequences, longest(sequences)).read(qkv);
        let launch = launch
            .read_or_null(sequences.padded_on_device())
            .read(dout)
            .read(log_sums);

        let launch = launch.read(along.span()).write(dqkv);
        rest(launch, attention, sequences, dropout).run(device);
    }
}

/// A kernel that gives every so many rows of every head of every sequence a block.
fn launch(name: &str, attention: &Attention, sequences: Sequences<'_>, rows: usize) -> Launch {
    let width = attention.width / attention.heads;
    let launch = Launch::new(&format!("flash_{name}_{width}")).threads(THREADS);
    launch.grid(rows.div_ceil(TILE), attention.heads, sequences.count())
}

/// What all kernels are given last.
fn rest(
    launch: Launch,
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
) -> Launch {
    let scale = 1.0 / ((attention.width / attention.heads) as f32).sqrt();
    let launch = launch
        .whole(attention.width)
        .whole(attention.longest)
        .real(scale);

    launch.sequences(sequences).masks(dropout)
}
