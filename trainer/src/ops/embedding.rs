//! Looks up rows of a table by token, and adds their positions' rows.

use rayon::prelude::*;

use super::rows::{Sequences, Tokens};

/// The tables of a text tower.
///
/// # Shapes
/// `words` [vocabulary, width], `positions` [longest, width], `kind` [width].
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: &'a [f32],
    /// A row for each place in a sequence.
    pub positions: &'a [f32],
    /// Added to every token: Chinese-CLIP knows one kind of sentence.
    pub kind: &'a [f32],
}

/// `y = words[id] + positions[place] + kind`.
///
/// # Shapes
/// `ids` [tokens], `y` [tokens, width].
pub fn forward(tables: Tables<'_>, sequences: Sequences<'_>, ids: &[u32], y: &mut [f32]) {
    let width = tables.kind.len();
    y.par_chunks_mut(width).zip(ids).with_min_len(16).for_each(|(y, &id)| {
        let word = &tables.words[id as usize * width..][..width];
        for i in 0..width {
            y[i] = word[i] + tables.kind[i];
        }
    });
    sequences.each(Tokens(y, width), |_, y| {
        y.0.iter_mut().zip(tables.positions).for_each(|(y, position)| *y += position);
    });
}

/// Adds rows of `dy` to the rows of the tables that they came from; that of padding learns nothing.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_words(ids: &[u32], width: usize, dy: &[f32], words: &mut [f32]) {
    for (dy, &id) in dy.chunks_exact(width).zip(ids).filter(|(_, id)| **id != 0) {
        add(&mut words[id as usize * width..][..width], dy);
    }
}

/// Adds rows of `dy` to the rows of their places.
///
/// # Shapes
/// `dy` [tokens, width], `positions` [longest, width].
pub fn backward_positions(offsets: &[usize], width: usize, dy: &[f32], positions: &mut [f32]) {
    for pair in offsets.windows(2) {
        let dy = &dy[pair[0] * width..pair[1] * width];
        add(&mut positions[..dy.len()], dy);
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
