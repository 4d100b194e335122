//! Embedding of tokens: a row of a table by token id, plus the row of its position.

mod cpu;
mod gpu;

use crate::ops::sequences::Sequences;
use crate::tensor::{IndexView, TensorView, TensorViewMut};

/// The tables of the text tower.
///
/// # Shapes
/// `words` `[vocabulary, width]`, `positions` `[max tokens, width]`, `token_type` `[width]`.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: TensorView<'a>,
    /// A row for each position in a sequence.
    pub positions: TensorView<'a>,
    /// Added to every token: Chinese-CLIP has one token type.
    pub token_type: TensorView<'a>,
}

/// `y = words[id] + positions[position] + token_type`.
///
/// # Shapes
/// `ids` `[tokens]`, `y` `[tokens, width]`.
///
/// ```
/// use cnclip_compute::ops::embedding::{self, EmbeddingTables};
/// use cnclip_compute::ops::sequences::Sequences;
///
/// let words = vec![0.0, 1.0, 2.0];
/// let positions = vec![0.5, 0.25];
/// let token_type = vec![10.0];
/// let tables = EmbeddingTables {
///     words: (&words).into(),
///     positions: (&positions).into(),
///     token_type: (&token_type).into(),
/// };
/// let mut y = vec![0.0; 2];
/// let ids: &[u32] = &[2, 1];
/// embedding::forward(tables, Sequences::new(&[0, 2]), ids.into(), (&mut y).into());
/// assert_eq!(y, [12.5, 11.25]);
/// ```
pub fn forward(
    tables: EmbeddingTables<'_>,
    sequences: Sequences<'_>,
    ids: IndexView<'_>,
    y: TensorViewMut<'_>,
) {
    match y {
        TensorViewMut::Host(y) => {
            let tables = cpu::HostTables {
                words: tables.words.expect_host(),
                positions: tables.positions.expect_host(),
                token_type: tables.token_type.expect_host(),
            };

            cpu::forward(tables, sequences, ids.expect_host(), y);
        }
        TensorViewMut::Device(mut y) => {
            let tables = gpu::DeviceTables {
                words: tables.words.expect_device(),
                positions: tables.positions.expect_device(),
                token_type: tables.token_type.expect_device(),
            };

            gpu::forward(tables, sequences, ids.expect_device(), &mut y);
        }
    }
}

/// Adds rows of `dy` to the gradients of the words that they came from; the row of padding gets none.
///
/// # Shapes
/// As in [`forward`]; `words` is the gradient of the table.
///
/// # Guarantees
/// Rows of one word are added in the order of the tokens, on the CPU and on a device.
pub fn backward_words(
    ids: IndexView<'_>,
    width: usize,
    dy: TensorView<'_>,
    words: TensorViewMut<'_>,
) {
    match words {
        TensorViewMut::Host(words) => {
            cpu::backward_words(ids.expect_host(), width, dy.expect_host(), words)
        }
        TensorViewMut::Device(mut words) => {
            gpu::backward_words(ids.expect_device(), width, dy.expect_device(), &mut words);
        }
    }
}

/// Adds rows of `dy` to the gradients of their positions.
///
/// # Shapes
/// `dy` `[tokens, width]`, `positions` `[max tokens, width]`.
pub fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: TensorView<'_>,
    positions: TensorViewMut<'_>,
) {
    match positions {
        TensorViewMut::Host(positions) => {
            cpu::backward_positions(sequences, width, dy.expect_host(), positions)
        }
        TensorViewMut::Device(mut positions) => {
            gpu::backward_positions(sequences, width, dy.expect_device(), &mut positions);
        }
    }
}
