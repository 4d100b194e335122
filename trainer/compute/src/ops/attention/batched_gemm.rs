//! The matrices of attention on a device, one for each head of each sequence, and their products.

use crate::device::{DeviceView, Gemm, KernelLaunch, MatrixDesc};
use crate::ops::attention::Attention;
use crate::ops::launch_arguments::max_sequence_len;
use crate::ops::sequences::{Pooling, Sequences};

/// What a dimension of a matrix counts, as the kernel `ragged_product` numbers it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum MatrixExtent {
    /// The width of a head.
    HeadWidth = 0,
    /// The tokens of a sequence.
    Tokens = 1,
    /// The pooled tokens of a sequence.
    PooledTokens = 2,
}

/// One matrix for each head of each sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchedMatrix<'a> {
    view: DeviceView<'a>,
    rows: MatrixExtent,
    cols: MatrixExtent,
    /// Numbers from one row to the next.
    row_stride: usize,
    /// Numbers from one head to the next.
    head_stride: usize,
    /// Whether there is a row for every token, or for pooled ones only.
    every_token: bool,
    transposed: bool,
}

impl BatchedMatrix<'_> {
    pub(super) fn transposed(self) -> Self {
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

/// The sizes from which the layout of every matrix follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct QkvLayout {
    width: usize,
    head_width: usize,
    max_tokens: usize,
    heads: usize,
}

impl QkvLayout {
    pub(super) fn from_attention(attention: &Attention) -> Self {
        Self {
            width: attention.width,
            head_width: attention.head_width(),
            max_tokens: attention.max_tokens,
            heads: attention.heads,
        }
    }

    pub(super) fn query_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            rows: MatrixExtent::PooledTokens,
            ..self.qkv_matrix(0, qkv)
        }
    }

    pub(super) fn key_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        self.qkv_matrix(1, qkv)
    }

    pub(super) fn value_matrix(self, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        self.qkv_matrix(2, qkv)
    }

    fn qkv_matrix(self, which: usize, qkv: DeviceView<'_>) -> BatchedMatrix<'_> {
        BatchedMatrix {
            // An empty batch has no numbers to begin behind.
            view: qkv.slice((which * self.width).min(qkv.len())..qkv.len()),
            rows: MatrixExtent::Tokens,
            cols: MatrixExtent::HeadWidth,
            row_stride: 3 * self.width,
            head_stride: self.head_width,
            every_token: true,
            transposed: false,
        }
    }

    pub(super) fn score_matrix(self, scores: DeviceView<'_>) -> BatchedMatrix<'_> {
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

    pub(super) fn output_matrix(self, out: DeviceView<'_>) -> BatchedMatrix<'_> {
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
pub(super) fn gemm_per_head(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: BatchedMatrix<'_>,
    a: BatchedMatrix<'_>,
    b: BatchedMatrix<'_>,
    scale: f32,
) {
    if sequences.sequence_count() == 0 {
        return;
    }

    let uniform_length = sequences.uniform_length();
    match uniform_length.filter(|_| sequences.device_token_ids().is_none()) {
        Some(_) => strided_batched_gemm(attention, sequences, target, a, b, scale),
        None => ragged_gemm(attention, sequences, target, a, b, scale),
    }
}

/// The sides of all matrices, where sequences have one length or for the longest of them.
struct MatrixSizes {
    head_width: usize,
    tokens: usize,
    pooled_tokens: usize,
}

impl MatrixSizes {
    fn for_length(attention: &Attention, sequences: Sequences<'_>, tokens: usize) -> Self {
        Self {
            head_width: attention.head_width(),
            tokens,
            pooled_tokens: match sequences.pooling() {
                Pooling::FirstToken => 1,
                Pooling::AllTokens => tokens,
            },
        }
    }

    fn size_of(&self, extent: MatrixExtent) -> usize {
        match extent {
            MatrixExtent::HeadWidth => self.head_width,
            MatrixExtent::Tokens => self.tokens,
            MatrixExtent::PooledTokens => self.pooled_tokens,
        }
    }
}

/// Products of sequences of one length.
///
/// A strided batch has one stride, but the matrices have two, one for sequences and one for heads: the
/// batch runs over whichever are more, and there is a call for each of the others.
fn strided_batched_gemm(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: BatchedMatrix<'_>,
    a: BatchedMatrix<'_>,
    b: BatchedMatrix<'_>,
    scale: f32,
) {
    let count = sequences.sequence_count();
    let heads = attention.heads;
    let sizes = MatrixSizes::for_length(attention, sequences, max_sequence_len(sequences));

    let matrix = |side: BatchedMatrix<'_>, call: usize| {
        let rows_per_sequence = if side.every_token {
            sizes.tokens
        } else {
            sizes.pooled_tokens
        };

        let sequence_stride = rows_per_sequence * side.row_stride;
        let (call_stride, batch_stride) = if count >= heads {
            (side.head_stride, sequence_stride)
        } else {
            (sequence_stride, side.head_stride)
        };

        let rows = sizes.size_of(side.rows);
        let cols = sizes.size_of(side.cols);
        let view = side.view.slice(call * call_stride..side.view.len());
        let matrix =
            MatrixDesc::strided(view, rows, cols, side.row_stride).with_batch_stride(batch_stride);

        if side.transposed {
            matrix.transposed()
        } else {
            matrix
        }
    };

    for call in 0..count.min(heads) {
        let product = Gemm {
            alpha: scale,
            batch: count.max(heads),
            ..Gemm::new(matrix(target, call), matrix(a, call), matrix(b, call))
        };

        target.view.device().gemm(&product);
    }
}

/// One kernel for sequences of all lengths: a block for each tile of each head of each sequence.
fn ragged_gemm(
    attention: &Attention,
    sequences: Sequences<'_>,
    target: BatchedMatrix<'_>,
    a: BatchedMatrix<'_>,
    b: BatchedMatrix<'_>,
    scale: f32,
) {
    /// Rows and columns of the target that one block writes: `TILE` of the kernel.
    const TILE: usize = 32;
    /// Threads of a block: each has 4 × 4 numbers of the tile.
    const BLOCK_THREADS: usize = 64;

    // The grid is that of the longest sequence; blocks beyond the end of a shorter one return at once.
    let sizes = MatrixSizes::for_length(attention, sequences, max_sequence_len(sequences));
    let tiles = |extent| sizes.size_of(extent).div_ceil(TILE);
    let (rows, cols) = target.gemm_extents();
    let (_, inner) = a.gemm_extents();

    let launch = KernelLaunch::for_dtype("ragged_product", target.view.dtype())
        .with_threads(BLOCK_THREADS)
        .with_grid(
            sequences.sequence_count(),
            attention.heads,
            tiles(rows) * tiles(cols),
        );

    let launch = [target, a, b].into_iter().fold(launch, |launch, side| {
        launch
            .arg_input(side.view)
            .arg_u32(side.row_stride)
            .arg_u32(side.head_stride)
            .arg_u32(side.every_token.into())
            .arg_u32(side.transposed.into())
    });

    launch
        .arg_u32(rows as usize)
        .arg_u32(cols as usize)
        .arg_u32(inner as usize)
        .arg_u32(sizes.head_width)
        .arg_u32(tiles(cols))
        .arg_f32(scale)
        .arg_sequences(sequences)
        .launch_on(target.view.device());
}
