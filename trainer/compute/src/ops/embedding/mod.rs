//! Looks up rows of a table by token, and adds their positions' rows.

pub mod gpu;

use rayon::prelude::*;

use crate::ops::rows::{Sequences, Tokens};
use crate::tensor::{View, ViewMut, Whole};

/// The tables of a text tower.
///
/// # Shapes
/// `words` [vocabulary, width], `positions` [longest, width], `kind` [width].
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: View<'a>,
    /// A row for each place in a sequence.
    pub positions: View<'a>,
    /// Added to every token: Chinese-CLIP knows one kind of sentence.
    pub kind: View<'a>,
}

/// `y = words[id] + positions[place] + kind`.
///
/// # Shapes
/// `ids` [tokens], `y` [tokens, width].
pub fn forward(tables: Tables<'_>, sequences: Sequences<'_>, ids: Whole<'_>, y: ViewMut<'_>) {
    match y {
        ViewMut::Host(y) => {
            look_up((tables.words.host(), tables.kind.host()), ids.host(), y);
            let positions = tables.positions.host();
            sequences.each(Tokens(y, tables.kind.len()), |_, y| {
                add_positions(positions, y.0)
            });
        }
        ViewMut::Device(mut y) => {
            let tables = gpu::Tables {
                words: tables.words.device(),
                positions: tables.positions.device(),
                kind: tables.kind.device(),
            };

            gpu::forward(tables, sequences, ids.device(), &mut y);
        }
    }
}

fn look_up((words, kind): (&[f32], &[f32]), ids: &[u32], y: &mut [f32]) {
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
pub fn backward_words(ids: Whole<'_>, width: usize, dy: View<'_>, words: ViewMut<'_>) {
    match words {
        ViewMut::Host(words) => {
            let rows = dy.host().chunks_exact(width).zip(ids.host());
            for (dy, &id) in rows.filter(|(_, id)| **id != 0) {
                add(&mut words[id as usize * width..][..width], dy);
            }
        }
        ViewMut::Device(mut words) => {
            gpu::backward_words(ids.device(), width, dy.device(), &mut words);
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
    dy: View<'_>,
    positions: ViewMut<'_>,
) {
    match positions {
        ViewMut::Host(positions) => {
            let dy = dy.host();
            for pair in sequences.offsets().windows(2) {
                let dy = &dy[pair[0] * width..pair[1] * width];
                add(&mut positions[..dy.len()], dy);
            }
        }
        ViewMut::Device(mut positions) => {
            gpu::backward_positions(sequences, width, dy.device(), &mut positions);
        }
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}
