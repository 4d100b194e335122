//! Attention in this machine's memory: sequences side by side, each head by itself.

use super::Attention;
use crate::gemm::multiply::multiply;
use crate::gemm::{Matrix, MatrixMut, Onto, Threads};
use crate::math::{exp, max, sum};
use crate::ops::dropout::{Dropout, Mask};
use crate::ops::rows::{Kept, Sequences, Tokens};

/// Which part of `qkv`.
#[derive(Clone, Copy)]
enum Part {
    Query = 0,
    Key = 1,
    Value = 2,
}

impl Attention {
    pub(super) fn forward_host(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        qkv: &[f32],
        (probabilities, dropped): (&mut [f32], &mut [f32]),
        out: &mut [f32],
    ) {
        let row = self.row();
        let arrays = (
            (Kept(probabilities, row), Kept(dropped, row)),
            Kept(out, self.width),
        );

        sequences.each(
            (Tokens(qkv, 3 * self.width), arrays),
            |sample, (qkv, arrays)| {
                let ((probabilities, dropped), out) = arrays;
                for head in 0..self.heads {
                    self.attend(head, qkv.0, sequences.padding(sample), probabilities.0);
                    let weights = if dropout.is_active() {
                        self.drop(head, dropout.mask(sample), probabilities.0, dropped.0);
                        &*dropped.0
                    } else {
                        &*probabilities.0
                    };

                    let tokens = qkv.0.len() / (3 * self.width);
                    let pair = (
                        self.scores(head, weights, tokens),
                        self.part(head, Part::Value, qkv.0),
                    );

                    multiply(
                        self.precision,
                        self.head_mut(head, out.0),
                        Onto::Replace,
                        1.0,
                        pair,
                        Threads::One,
                    );
                }
            },
        );
    }

    pub(super) fn backward_host(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        (qkv, probabilities): (&[f32], &[f32]),
        dout: &[f32],
        (dropped, dscores): (&mut [f32], &mut [f32]),
        dqkv: &mut [f32],
    ) {
        let row = self.row();
        let wide = 3 * self.width;
        let saved = (Tokens(qkv, wide), Kept(probabilities, row));
        let scratch = (Kept(dropped, row), Kept(dscores, row));
        let gradients = (Kept(dout, self.width), Tokens(dqkv, wide));

        sequences.each(((saved, scratch), gradients), |sample, parts| {
            let (((qkv, probabilities), (dropped, dscores)), (dout, dqkv)) = parts;
            if dout.0.len() * 3 < dqkv.0.len() {
                // Queries of tokens that do not go on have no gradient.
                dqkv.0.fill(0.0);
            }

            let mask = dropout.is_active().then(|| dropout.mask(sample));
            for head in 0..self.heads {
                let saved = (qkv.0, probabilities.0);
                self.backward_head(head, mask, saved, dout.0, (dropped.0, dscores.0), dqkv.0);
            }
        });
    }

    fn backward_head(
        &self,
        head: usize,
        mask: Option<Mask>,
        (qkv, probabilities): (&[f32], &[f32]),
        dout: &[f32],
        (dropped, dscores): (&mut [f32], &mut [f32]),
        dqkv: &mut [f32],
    ) {
        let tokens = qkv.len() / (3 * self.width);
        let part = |part| self.part(head, part, qkv);
        let dout = self.head(head, dout);
        let weights = match mask {
            Some(mask) => {
                self.drop(head, mask, probabilities, dropped);
                &*dropped
            }
            None => probabilities,
        };

        let mut write = |which, pair| {
            let rows = if matches!(which, Part::Query) {
                dout.rows()
            } else {
                tokens
            };

            let target = self.part_mut(head, which, dqkv, rows);
            multiply(
                self.precision,
                target,
                Onto::Replace,
                1.0,
                pair,
                Threads::One,
            );
        };

        write(
            Part::Value,
            (self.scores(head, weights, tokens).transposed(), dout),
        );

        let target = self.scores_mut(head, dscores, tokens);
        multiply(
            self.precision,
            target,
            Onto::Replace,
            1.0,
            (dout, part(Part::Value).transposed()),
            Threads::One,
        );

        self.backward_softmax(head, mask, probabilities, dscores, tokens);
        let dscores = self.scores(head, dscores, tokens);
        write(Part::Query, (dscores, part(Part::Key)));
        let queries = part(Part::Query).first(dout.rows());
        write(Part::Key, (dscores.transposed(), queries));
    }

    /// The probabilities of one head.
    fn attend(&self, head: usize, qkv: &[f32], padding: Option<&[u32]>, probabilities: &mut [f32]) {
        let keys = self.part(head, Part::Key, qkv);
        let target = self.scores_mut(head, probabilities, keys.rows());
        let queries = self.part(head, Part::Query, qkv).first(target.rows());
        multiply(
            self.precision,
            target,
            Onto::Replace,
            self.scale(),
            (queries, keys.transposed()),
            Threads::One,
        );

        for row in probabilities.chunks_exact_mut(self.row()) {
            let scores = &mut row[head * self.longest..][..keys.rows()];
            if let Some(ids) = padding {
                hide(ids, scores);
            }

            softmax(scores);
        }
    }

    fn drop(&self, head: usize, mask: Mask, probabilities: &[f32], dropped: &mut [f32]) {
        let rows = probabilities
            .chunks_exact(self.row())
            .zip(dropped.chunks_exact_mut(self.row()));

        for (row, (from, to)) in rows.enumerate() {
            let part = head * self.longest..(head + 1) * self.longest;
            mask.apply(
                row * self.row() + part.start,
                &from[part.clone()],
                &mut to[part],
            );
        }
    }

    /// `dscores` holds the gradient of the dropped probabilities, and becomes that of `q · kᵀ`.
    fn backward_softmax(
        &self,
        head: usize,
        mask: Option<Mask>,
        probabilities: &[f32],
        dscores: &mut [f32],
        tokens: usize,
    ) {
        let scale = self.scale();
        let rows = probabilities
            .chunks_exact(self.row())
            .zip(dscores.chunks_exact_mut(self.row()));

        for (row, (p, d)) in rows.enumerate() {
            let start = head * self.longest;
            let p = &p[start..start + tokens];
            let d = &mut d[start..start + tokens];

            if let Some(mask) = mask {
                let first = row * self.row() + start;
                d.iter_mut()
                    .enumerate()
                    .for_each(|(i, d)| *d *= mask.scale(first + i));
            }

            let mean = sum(d, |i, d| d * p[i]);
            d.iter_mut()
                .zip(p)
                .for_each(|(d, p)| *d = p * (*d - mean) * scale);
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Query, key or value of one head, of all tokens of a sequence.
    fn part<'a>(&self, head: usize, part: Part, qkv: &'a [f32]) -> Matrix<'a> {
        let wide = 3 * self.width;
        let d = self.head_width();
        let start = part as usize * self.width + head * d;
        Matrix::strided(&qkv[start..], qkv.len() / wide, d, wide)
    }

    fn part_mut<'a>(
        &self,
        head: usize,
        part: Part,
        qkv: &'a mut [f32],
        rows: usize,
    ) -> MatrixMut<'a> {
        let d = self.head_width();
        let start = part as usize * self.width + head * d;
        MatrixMut::strided(&mut qkv[start..], rows, d, 3 * self.width)
    }

    fn head<'a>(&self, head: usize, out: &'a [f32]) -> Matrix<'a> {
        let d = self.head_width();
        Matrix::strided(&out[head * d..], out.len() / self.width, d, self.width)
    }

    fn head_mut<'a>(&self, head: usize, out: &'a mut [f32]) -> MatrixMut<'a> {
        let d = self.head_width();
        let rows = out.len() / self.width;
        MatrixMut::strided(&mut out[head * d..], rows, d, self.width)
    }

    fn scores<'a>(&self, head: usize, scores: &'a [f32], tokens: usize) -> Matrix<'a> {
        let rows = scores.len() / self.row();
        Matrix::strided(&scores[head * self.longest..], rows, tokens, self.row())
    }

    fn scores_mut<'a>(&self, head: usize, scores: &'a mut [f32], tokens: usize) -> MatrixMut<'a> {
        let rows = scores.len() / self.row();
        MatrixMut::strided(&mut scores[head * self.longest..], rows, tokens, self.row())
    }
}

/// Takes so much from the scores of padding that softmax leaves nothing of it.
///
/// # Source
/// The reference adds -10,000, so a sequence of nothing but padding attends to all of it.
fn hide(ids: &[u32], scores: &mut [f32]) {
    for (score, _) in scores.iter_mut().zip(ids).filter(|(_, id)| **id == 0) {
        *score -= 10_000.0;
    }
}

/// Makes positive numbers that sum to 1 of any numbers.
pub(in crate::ops) fn softmax(row: &mut [f32]) {
    let top = max(row);
    row.iter_mut().for_each(|value| *value = exp(*value - top));
    let scale = 1.0 / sum(row, |_, value| value);
    row.iter_mut().for_each(|value| *value *= scale);
}
