//! The matrices of attention, one for each head of each sequence, and their products.

use crate::device::{DeviceView, Gemm, KernelLaunch, MatrixDesc};
use crate::ops::attention::Attention;
use crate::ops::launch_arguments::max_sequence_len;
use crate::ops::sequences::{Pooling, Sequences};

/// How long a side of a matrix is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum MatrixExtent {
    /// The width of a head.
    HeadWidth = 0,
    /// The tokens of a sequence.
    Tokens = 1,
    /// Those of its tokens that go on.
    PooledTokens = 2,
}

/// One matrix for each head of each sequence.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct BatchedMatrix<'a> {
    view: DeviceView<'a>,
    rows: MatrixExtent,
    cols: MatrixExtent,
    /// Numbers from one row to the next.
    row_stride: usize,
    /// Numbers from one head to the next.
    head_stride: usize,
    /// Whether a row is there for every token, or for those only that go on.
    every_token: bool,
    transposed: bool,
}

impl BatchedMatrix<'_> {
    pub(in crate::ops) fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Rows and columns as they are multiplied.
    fn gemm_extents(self) -> (MatrixExtent, MatrixExtent) {
        if self.transposed {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }
}

/// Where the matrices lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct QkvLayout {
    width: usize,
    head_width: usize,
    max_tokens: usize,
    heads: usize,
}

impl QkvLayout {
    pub(in crate::ops) fn from_attention(attention: &Attention) -> Self {
        let Attention {
            heads,
            width,
            max_tokens: longest,
            ..
        } = *attention;

        Self {
            width,
            head_width: width / heads,
            max_tokens: longest,
            heads,
        }
    }

    pub(in crate::ops) fn query_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            rows: MatrixExtent::PooledTokens,
            ..self.qkv_matrix(0, qkv)
        }
    }

    pub(in crate::ops) fn key_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        self.qkv_matrix(1, qkv)
    }

    pub(in crate::ops) fn value_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        self.qkv_matrix(2, qkv)
    }

    fn qkv_matrix(self, which: usize, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            view: qkv.slice((which * self.width).min(qkv.len())..qkv.len()),
            rows: MatrixExtent::Tokens,
            cols: MatrixExtent::HeadWidth,
            row_stride: 3 * self.width,
            head_stride: self.head_width,
            every_token: true,
            transposed: false,
        }
    }

    pub(in crate::ops) fn score_matrix(self, scores: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            view: scores,
            rows: MatrixExtent::PooledTokens,
            cols: MatrixExtent::Tokens,
            row_stride: self.heads * self.max_tokens,
            head_stride: self.max_tokens,
            every_token: false,
            transposed: false,
        }
    }

    pub(in crate::ops) fn output_matrix(self, out: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            view: out,
            rows: MatrixExtent::PooledTokens,
            cols: MatrixExtent::HeadWidth,
            row_stride: self.width,
            head_stride: self.head_width,
            every_token: false,
            transposed: false,
        }
    }
}

/// `target = scale · a · b` for each head of each sequence.
pub(in crate::ops) fn gemm_per_head(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: BatchedMatrix<'_>,
    pair: (BatchedMatrix<'_>, BatchedMatrix<'_>),
    scale: f32,
) {
    if sequences.sequence_count() == 0 {
        return;
    }

    match sequences
        .uniform_length()
        .filter(|_| sequences.device_token_ids().is_none())
    {
        Some(length) => strided_batched_gemm(attention, sequences, length, target, pair, scale),
        None => ragged_gemm(attention, sequences, target, pair, scale),
    }
}

/// Batches over sequences or over heads, whichever are more.
fn strided_batched_gemm(
    attention: &Attention,
    sequences: Sequences<'_>,
    length: usize,
    target: BatchedMatrix<'_>,
    (a, b): (BatchedMatrix<'_>, BatchedMatrix<'_>),
    scale: f32,
) {
    let kept = if sequences.pooling() == Pooling::FirstToken {
        1
    } else {
        length
    };

    let count = sequences.sequence_count();
    let heads = attention.heads;
    let size = |extent| match extent {
        MatrixExtent::HeadWidth => attention.width / heads,
        MatrixExtent::Tokens => length,
        MatrixExtent::PooledTokens => kept,
    };

    let operand = |side: BatchedMatrix<'_>, index: usize| {
        let sequence = if side.every_token { length } else { kept } * side.row_stride;
        let (one, every) = if count >= heads {
            (side.head_stride, sequence)
        } else {
            (sequence, side.head_stride)
        };

        let span = side.view.slice(index * one..side.view.len());
        let operand = MatrixDesc::strided(span, size(side.rows), size(side.cols), side.row_stride);
        let operand = operand.with_batch_stride(every);

        if side.transposed {
            operand.transposed()
        } else {
            operand
        }
    };

    for index in 0..count.min(heads) {
        let product = Gemm::new(operand(target, index), operand(a, index), operand(b, index));
        let product = Gemm {
            alpha: scale,
            batch: count.max(heads),
            ..product
        };

        target.view.device().gemm(&product);
    }
}

/// One kernel for all lengths.
fn ragged_gemm(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: BatchedMatrix<'_>,
    (a, b): (BatchedMatrix<'_>, BatchedMatrix<'_>),
    scale: f32,
) {
    /// Rows and columns of the target that one block writes.
    const TILE: usize = 32;
    let width = attention.width / attention.heads;
    let longest = max_sequence_len(sequences);
    let kept = if sequences.pooling() == Pooling::FirstToken {
        1
    } else {
        longest
    };

    let tiles = |extent| {
        let size = match extent {
            MatrixExtent::HeadWidth => width,
            MatrixExtent::Tokens => longest,
            MatrixExtent::PooledTokens => kept,
        };

        size.div_ceil(TILE)
    };

    let (rows, cols) = target.gemm_extents();
    let (_, inner) = a.gemm_extents();
    let launch = KernelLaunch::for_dtype("ragged_product", target.view.dtype()).with_threads(64);
    let grid = (
        sequences.sequence_count(),
        attention.heads,
        tiles(rows) * tiles(cols),
    );

    let launch = launch.with_grid(grid.0, grid.1, grid.2);
    let launch = [target, a, b].into_iter().fold(launch, |launch, side| {
        let launch = launch
            .arg_input(side.view)
            .arg_u32(side.row_stride)
            .arg_u32(side.head_stride);
        launch
            .arg_u32(side.every_token.into())
            .arg_u32(side.transposed.into())
    });

    let launch = launch
        .arg_u32(rows as usize)
        .arg_u32(cols as usize)
        .arg_u32(inner as usize);

    let launch = launch.arg_u32(width).arg_u32(tiles(cols)).arg_f32(scale);
    launch
        .arg_sequences(sequences)
        .launch_on(target.view.device());
}
