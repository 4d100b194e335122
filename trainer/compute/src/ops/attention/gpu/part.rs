//! The matrices of attention, one for each head of each sequence, and their products.

use crate::device::{Launch, Operand, Product, Span};
use crate::ops::attention::Attention;
use crate::ops::rows::{Keep, Sequences};
use crate::ops::sequences::longest;

/// How long a side of a matrix is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Extent {
    /// The width of a head.
    Width = 0,
    /// The tokens of a sequence.
    Tokens = 1,
    /// Those of its tokens that go on.
    Kept = 2,
}

/// One matrix for each head of each sequence.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Side<'a> {
    span: Span<'a>,
    rows: Extent,
    cols: Extent,
    /// Numbers from one row to the next.
    row: usize,
    /// Numbers from one head to the next.
    head: usize,
    /// Whether a row is there for every token, or for those only that go on.
    every_token: bool,
    transposed: bool,
}

impl Side<'_> {
    pub(in crate::ops) fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Rows and columns as they are multiplied.
    fn extents(self) -> (Extent, Extent) {
        if self.transposed {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }
}

/// Where the matrices lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Part {
    width: usize,
    head: usize,
    longest: usize,
    heads: usize,
}

impl Part {
    pub(in crate::ops) fn of(attention: &Attention) -> Self {
        let Attention {
            heads,
            width,
            longest,
            ..
        } = *attention;

        Self {
            width,
            head: width / heads,
            longest,
            heads,
        }
    }

    pub(in crate::ops) fn query(self, qkv: Span<'_>) -> Side<'_> {
        Side {
            rows: Extent::Kept,
            ..self.third(0, qkv)
        }
    }

    pub(in crate::ops) fn key(self, qkv: Span<'_>) -> Side<'_> {
        self.third(1, qkv)
    }

    pub(in crate::ops) fn value(self, qkv: Span<'_>) -> Side<'_> {
        self.third(2, qkv)
    }

    fn third(self, which: usize, qkv: Span<'_>) -> Side<'_> {
        Side {
            span: qkv.part((which * self.width).min(qkv.len())..qkv.len()),
            rows: Extent::Tokens,
            cols: Extent::Width,
            row: 3 * self.width,
            head: self.head,
            every_token: true,
            transposed: false,
        }
    }

    pub(in crate::ops) fn scores(self, scores: Span<'_>) -> Side<'_> {
        Side {
            span: scores,
            rows: Extent::Kept,
            cols: Extent::Tokens,
            row: self.heads * self.longest,
            head: self.longest,
            every_token: false,
            transposed: false,
        }
    }

    pub(in crate::ops) fn out(self, out: Span<'_>) -> Side<'_> {
        Side {
            span: out,
            rows: Extent::Kept,
            cols: Extent::Width,
            row: self.width,
            head: self.head,
            every_token: false,
            transposed: false,
        }
    }
}

/// `target = scale · a · b` for each head of each sequence.
pub(in crate::ops) fn multiply(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: Side<'_>,
    pair: (Side<'_>, Side<'_>),
    scale: f32,
) {
    if sequences.count() == 0 {
        return;
    }

    match sequences
        .length()
        .filter(|_| sequences.padded_on_device().is_none())
    {
        Some(length) => batches(attention, sequences, length, target, pair, scale),
        None => ragged(attention, sequences, target, pair, scale),
    }
}

/// Batches over sequences or over heads, whichever are more.
fn batches(
    attention: &Attention,
    sequences: Sequences<'_>,
    length: usize,
    target: Side<'_>,
    (a, b): (Side<'_>, Side<'_>),
    scale: f32,
) {
    let kept = if sequences.keep() == Keep::First {
        1
    } else {
        length
    };

    let count = sequences.count();
    let heads = attention.heads;
    let size = |extent| match extent {
        Extent::Width => attention.width / heads,
        Extent::Tokens => length,
        Extent::Kept => kept,
    };

    let operand = |side: Side<'_>, index: usize| {
        let sequence = if side.every_token { length } else { kept } * side.row;
        let (one, every) = if count >= heads {
            (side.head, sequence)
        } else {
            (sequence, side.head)
        };

        let span = side.span.part(index * one..side.span.len());
        let operand = Operand::strided(span, size(side.rows), size(side.cols), side.row);
        let operand = operand.every(every);

        if side.transposed {
            operand.transposed()
        } else {
            operand
        }
    };

    for index in 0..count.min(heads) {
        let product = Product::new(operand(target, index), operand(a, index), operand(b, index));
        let product = Product {
            scale,
            batch: count.max(heads),
            ..product
        };

        target.span.device().multiply(&product);
    }
}

/// One kernel for all lengths.
fn ragged(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: Side<'_>,
    (a, b): (Side<'_>, Side<'_>),
    scale: f32,
) {
    /// Rows and columns of the target that one block writes.
    const TILE: usize = 32;
    let width = attention.width / attention.heads;
    let longest = longest(sequences);
    let kept = if sequences.keep() == Keep::First {
        1
    } else {
        longest
    };

    let tiles = |extent| {
        let size = match extent {
            Extent::Width => width,
            Extent::Tokens => longest,
            Extent::Kept => kept,
        };

        size.div_ceil(TILE)
    };

    let (rows, cols) = target.extents();
    let (_, inner) = a.extents();
    let launch = Launch::typed("ragged_product", target.span.format()).threads(64);
    let grid = (
        sequences.count(),
        attention.heads,
        tiles(rows) * tiles(cols),
    );

    let launch = launch.grid(grid.0, grid.1, grid.2);
    let launch = [target, a, b].into_iter().fold(launch, |launch, side| {
        let launch = launch.read(side.span).whole(side.row).whole(side.head);
        launch
            .whole(side.every_token.into())
            .whole(side.transposed.into())
    });

    let launch = launch
        .whole(rows as usize)
        .whole(cols as usize)
        .whole(inner as usize);

    let launch = launch.whole(width).whole(tiles(cols)).real(scale);
    launch.sequences(sequences).run(target.span.device());
}
