//! Multi-head self-attention. Sequences of one length without padding are multiplied as batches; of
//! others a kernel multiplies each at its own length. What lies between the products is the same.

mod part;

use part::{Part, Side, multiply};

use crate::device::{Launch, Span, SpanMut};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::rows::{Keep, Sequences};
use crate::ops::sequences::most_kept;

/// Rows of scores that one block takes: a warp each.
const ROWS: usize = 8;

/// Writes `out`, and the probabilities that the backward needs; `dropped` is scratch.
///
/// # Shapes
/// As in [`Attention`].
pub fn forward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: Span<'_>,
    (probabilities, dropped): (&mut SpanMut<'_>, &mut SpanMut<'_>),
    out: &mut SpanMut<'_>,
) {
    let part = Part::of(attention);
    let scores = part.scores(probabilities.span());
    let pair = (part.query(qkv), part.key(qkv).transposed());
    multiply(attention, sequences, scores, pair, scale(attention));
    softmax(attention, sequences, dropout, probabilities, dropped);
    let weights = if dropout.is_active() {
        dropped.span()
    } else {
        probabilities.span()
    };

    let pair = (part.scores(weights), part.value(qkv));
    multiply(attention, sequences, part.out(out.span()), pair, 1.0);
}

fn softmax(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    probabilities: &mut SpanMut<'_>,
    dropped: &mut SpanMut<'_>,
) {
    let device = probabilities.device();
    let launch = rows(
        "softmax_forward",
        attention,
        sequences,
        probabilities.span(),
    );

    let dropped = dropout.is_active().then(|| dropped.span());
    let launch = launch.write(probabilities).read_or_null(dropped);
    let launch = launch.read_or_null(sequences.padded_on_device());
    let launch = launch.whole(attention.heads).whole(attention.longest);
    launch.sequences(sequences).masks(dropout).run(device);
}

/// Writes `dqkv`; `dropped` and `dscores` are scratch of the shape of `probabilities`.
///
/// # Shapes
/// As in [`Attention`].
pub fn backward(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    (qkv, probabilities): (Span<'_>, Span<'_>),
    dout: Span<'_>,
    (dropped, dscores): (&mut SpanMut<'_>, &mut SpanMut<'_>),
    dqkv: &mut SpanMut<'_>,
) {
    if sequences.keep() == Keep::First {
        // Queries of tokens that do not go on have no gradient.
        dqkv.clear();
    }

    let part = Part::of(attention);
    let dout = part.out(dout);
    let write = |target: Side<'_>, pair, scale| multiply(attention, sequences, target, pair, scale);
    write(
        part.scores(dscores.span()),
        (dout, part.value(qkv).transposed()),
        1.0,
    );

    backward_softmax(
        attention,
        sequences,
        dropout,
        probabilities,
        dropped,
        dscores,
    );

    let weights = if dropout.is_active() {
        dropped.span()
    } else {
        probabilities
    };

    let weights = part.scores(weights);
    let dscores = part.scores(dscores.span());
    write(part.value(dqkv.span()), (weights.transposed(), dout), 1.0);
    write(part.query(dqkv.span()), (dscores, part.key(qkv)), 1.0);
    write(
        part.key(dqkv.span()),
        (dscores.transposed(), part.query(qkv)),
        1.0,
    );
}

/// `dscores` holds the gradient of the dropped probabilities, and becomes that of `q · kᵀ`.
fn backward_softmax(
    attention: &Attention,
    sequences: Sequences<'_>,
    dropout: Dropout,
    probabilities: Span<'_>,
    dropped: &mut SpanMut<'_>,
    dscores: &mut SpanMut<'_>,
) {
    let device = dscores.device();
    let launch = rows("softmax_backward", attention, sequences, probabilities);
    let dropped = dropout.is_active().then(|| dropped.span());
    let launch = launch
        .read(probabilities)
        .read_or_null(dropped)
        .write(dscores);

    let launch = launch
        .whole(attention.heads)
        .whole(attention.longest)
        .real(scale(attention));

    launch.sequences(sequences).masks(dropout).run(device);
}

/// A kernel that gives every row of every head's scores a warp.
fn rows(
    name: &str,
    attention: &Attention,
    sequences: Sequences<'_>,
    probabilities: Span<'_>,
) -> Launch {
    let blocks = (most_kept(sequences) * attention.heads).div_ceil(ROWS);
    Launch::typed(name, probabilities.format()).grid(sequences.count(), blocks, 1)
}

fn scale(attention: &Attention) -> f32 {
    1.0 / ((attention.width / attention.heads) as f32).sqrt()
}
