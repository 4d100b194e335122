//! Embedding of tokens on the CPU.

use rayon::prelude::*;

use crate::math::add_in_place;
use crate::ops::sequences::{Sequences, TokenRows};

/// The id of padding, whose row is never trained: PyTorch's `padding_idx`.
const PADDING_ID: u32 = 0;

/// The tables in this machine's memory.
#[derive(Clone, Copy)]
pub(super) struct HostTables<'a> {
    pub(super) words: &'a [f32],
    pub(super) positions: &'a [f32],
    pub(super) token_type: &'a [f32],
}

pub(super) fn forward(
    tables: HostTables<'_>,
    sequences: Sequences<'_>,
    ids: &[u32],
    y: &mut [f32],
) {
    let width = tables.token_type.len();
    gather_words(tables, ids, y);
    sequences.par_for_each(TokenRows(y, width), |_, y| {
        // Adds as many rows as the sequence has tokens: positions begin at 0 in each.
        add_in_place(y.0, tables.positions)
    });
}

/// `y = words[id] + token_type`.
fn gather_words(tables: HostTables<'_>, ids: &[u32], y: &mut [f32]) {
    /// Rows that a task takes at least.
    const MIN_ROWS: usize = 16;
    let HostTables {
        words, token_type, ..
    } = tables;
    let width = token_type.len();

    y.par_chunks_mut(width)
        .zip(ids)
        .with_min_len(MIN_ROWS)
        .for_each(|(y, &id)| {
            let word = &words[id as usize * width..][..width];
            for i in 0..width {
                y[i] = word[i] + token_type[i];
            }
        });
}

pub(super) fn backward_words(ids: &[u32], width: usize, dy: &[f32], words: &mut [f32]) {
    // One thread: two tokens may have one id, and their rows are added in the order of the tokens.
    let rows = dy.chunks_exact(width).zip(ids);
    for (dy, &id) in rows.filter(|(_, id)| **id != PADDING_ID) {
        add_in_place(&mut words[id as usize * width..][..width], dy);
    }
}

pub(super) fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: &[f32],
    positions: &mut [f32],
) {
    for bounds in sequences.offsets().windows(2) {
        let dy = &dy[bounds[0] * width..bounds[1] * width];
        add_in_place(&mut positions[..dy.len()], dy);
    }
}
