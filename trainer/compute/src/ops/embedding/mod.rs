//! Looks up rows of a table by token, and adds their positions' rows.

pub mod gpu;

use rayon::prelude::*;

use crate::ops::sequences::{Sequences, TokenRows};
use crate::tensor::{IndexView, TensorView, TensorViewMut};

/// The tables of a text tower.
///
/// # Shapes
/// `words` [vocabulary, width], `positions` [longest, width], `kind` [width].
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: TensorView<'a>,
    /// A row for each place in a sequence.
    pub positions: TensorView<'a>,
    /// Added to every token: Chinese-CLIP knows one kind of sentence.
    pub token_type: TensorView<'a>,
}

/// `y = words[id] + positions[place] + kind`.
///
/// # Shapes
/// `ids` [tokens], `y` [tokens, width].
pub fn forward(
    tables: EmbeddingTables<'_>,
    sequences: Sequences<'_>,
    ids: IndexView<'_>,
    y: TensorViewMut<'_>,
) {
    match y {
        TensorViewMut::Host(y) => {
            gather_embeddings(
                (tables.words.expect_host(), tables.token_type.expect_host()),
                ids.expect_host(),
                y,
            );
            let positions = tables.positions.expect_host();
            sequences.par_for_each(TokenRows(y, tables.token_type.len()), |_, y| {
                add_positions(positions, y.0)
            });
        }
        TensorViewMut::Device(mut y) => {
            let tables = gpu::DeviceEmbeddingTables {
                words: tables.words.expect_device(),
                positions: tables.positions.expect_device(),
                token_type: tables.token_type.expect_device(),
            };

            gpu::forward(tables, sequences, ids.expect_device(), &mut y);
        }
    }
}

fn gather_embeddings((words, kind): (&[f32], &[f32]), ids: &[u32], y: &mut [f32]) {
    let width = kind.len();
    y.par_chunks_mut(width)
        .zip(ids)
        .with_min_len(16)
        .for_each(|(y, &id)| {
            let word = &words[id as usize * width..][..width];
            for i in 0..width {
                y[i] = word[i] + kind[i];
            }
        });
}

fn add_positions(positions: &[f32], y: &mut [f32]) {
    y.iter_mut()
        .zip(positions)
        .for_each(|(y, position)| *y += position);
}

/// Adds rows of `dy` to the rows of the tables that they came from; that of padding learns nothing.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_words(
    ids: IndexView<'_>,
    width: usize,
    dy: TensorView<'_>,
    words: TensorViewMut<'_>,
) {
    match words {
        TensorViewMut::Host(words) => {
            let rows = dy.expect_host().chunks_exact(width).zip(ids.expect_host());
            for (dy, &id) in rows.filter(|(_, id)| **id != 0) {
                add_row(&mut words[id as usize * width..][..width], dy);
            }
        }
        TensorViewMut::Device(mut words) => {
            gpu::backward_words(ids.expect_device(), width, dy.expect_device(), &mut words);
        }
    }
}

/// Adds rows of `dy` to the rows of their places.
///
/// # Shapes
/// `dy` [tokens, width], `positions` [longest, width].
pub fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: TensorView<'_>,
    positions: TensorViewMut<'_>,
) {
    match positions {
        TensorViewMut::Host(positions) => {
            let dy = dy.expect_host();
            for pair in sequences.offsets().windows(2) {
                let dy = &dy[pair[0] * width..pair[1] * width];
                add_row(&mut positions[..dy.len()], dy);
            }
        }
        TensorViewMut::Device(mut positions) => {
            gpu::backward_positions(sequences, width, dy.expect_device(), &mut positions);
        }
    }
}

fn add_row(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}
