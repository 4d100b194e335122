//! Attention of one query on a device: a block of threads for each head of each picture.

use crate::device::{Launch, Span, SpanMut};
use crate::ops::attention_pool::Query;

/// Writes `out` and the probabilities.
pub(crate) fn forward(
    query: Query,
    q: Span<'_>,
    kv: Span<'_>,
    mut probabilities: SpanMut<'_>,
    mut out: SpanMut<'_>,
) {
    let launch = launch(query, "query_forward", q).read(q).read(kv);
    shape(query, launch.write(&mut probabilities).write(&mut out)).run(q.device());
}

/// Writes `dq` and `dkv`.
pub(crate) fn backward(
    query: Query,
    (q, kv): (Span<'_>, Span<'_>),
    (probabilities, out): (Span<'_>, Span<'_>),
    dout: Span<'_>,
    (mut dq, mut dkv): (SpanMut<'_>, SpanMut<'_>),
) {
    let launch = launch(query, "query_backward", q).read(q).read(kv);
    let launch = launch.read(probabilities).read(out).read(dout);
    shape(query, launch.write(&mut dq).write(&mut dkv)).run(q.device());
}

fn launch(query: Query, name: &str, q: Span<'_>) -> Launch {
    let pictures = q.len() / query.width;
    let heads = query.heads;
    Launch::typed(name, q.format())
        .grid(heads, pictures, 1)
        .threads(128)
}

fn shape(query: Query, launch: Launch) -> Launch {
    let Query { heads, tokens, .. } = query;
    launch
        .whole(heads)
        .whole(query.head())
        .whole(tokens)
        .real(query.scale())
}
