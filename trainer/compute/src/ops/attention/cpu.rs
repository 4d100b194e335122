//! Attention on the CPU: a task for each sequence, head after head.

use super::Attention;
use crate::gemm::matmul::gemm;
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut};
use crate::math::{softmax_in_place, sum_map};
use crate::ops::dropout::{Dropout, DropoutMask};
use crate::ops::sequences::{PooledRows, Sequences, TokenRows};

/// Which part of `qkv`.
#[derive(Clone, Copy)]
enum QkvPart {
    Query = 0,
    Key = 1,
    Value = 2,
}

/// What the backward needs of the forward, of all sequences or of one.
#[derive(Clone, Copy)]
pub(super) struct HostCache<'a> {
    pub(super) qkv: &'a [f32],
    pub(super) probabilities: &'a [f32],
}

/// Memory of the shape of the probabilities, which holds nothing between calls.
pub(super) struct HostScratch<'a> {
    pub(super) dropped: &'a mut [f32],
    pub(super) dscores: &'a mut [f32],
}

impl Attention {
    pub(super) fn forward_host(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        qkv: &[f32],
        probabilities: &mut [f32],
        dropped: &mut [f32],
        out: &mut [f32],
    ) {
        let row = self.probabilities_per_token();
        let qkv = TokenRows(qkv, 3 * self.width);
        let weights = (PooledRows(probabilities, row), PooledRows(dropped, row));
        let out = PooledRows(out, self.width);

        sequences.par_for_each((qkv, (weights, out)), |sample, (qkv, (weights, out))| {
            let (probabilities, dropped) = weights;
            let padding = sequences.padded_token_ids(sample);
            let mask = dropout.is_active().then(|| dropout.sample_mask(sample));

            for head in 0..self.heads {
                self.head_probabilities(head, qkv.0, padding, probabilities.0);
                let weights = match mask {
                    Some(mask) => {
                        self.apply_dropout(head, mask, probabilities.0, dropped.0);
                        &*dropped.0
                    }
                    None => &*probabilities.0,
                };

                let tokens = qkv.0.len() / (3 * self.width);
                gemm(
                    self.precision,
                    self.head_matrix_mut(head, out.0),
                    Accumulate::No,
                    1.0,
                    self.score_matrix(head, weights, tokens),
                    self.qkv_matrix(head, QkvPart::Value, qkv.0),
                    GemmThreads::One,
                );
            }
        });
    }

    pub(super) fn backward_host(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        cache: HostCache<'_>,
        dout: &[f32],
        scratch: HostScratch<'_>,
        dqkv: &mut [f32],
    ) {
        let row = self.probabilities_per_token();
        let qkv_row = 3 * self.width;
        let inputs = (
            TokenRows(cache.qkv, qkv_row),
            PooledRows(cache.probabilities, row),
        );

        let scratch = (
            PooledRows(scratch.dropped, row),
            PooledRows(scratch.dscores, row),
        );

        let gradients = (PooledRows(dout, self.width), TokenRows(dqkv, qkv_row));
        sequences.par_for_each(((inputs, scratch), gradients), |sample, parts| {
            let (((qkv, probabilities), (dropped, dscores)), (dout, dqkv)) = parts;
            if dout.0.len() * 3 < dqkv.0.len() {
                // Queries of tokens that are not pooled have no gradient.
                dqkv.0.fill(0.0);
            }

            let cache = HostCache {
                qkv: qkv.0,
                probabilities: probabilities.0,
            };

            let mut scratch = HostScratch {
                dropped: dropped.0,
                dscores: dscores.0,
            };

            let mask = dropout.is_active().then(|| dropout.sample_mask(sample));
            for head in 0..self.heads {
                self.backward_head(head, mask, cache, dout.0, &mut scratch, dqkv.0);
            }
        });
    }

    fn backward_head(
        &self,
        head: usize,
        mask: Option<DropoutMask>,
        cache: HostCache<'_>,
        dout: &[f32],
        scratch: &mut HostScratch<'_>,
        dqkv: &mut [f32],
    ) {
        let HostCache { qkv, probabilities } = cache;
        let HostScratch { dropped, dscores } = scratch;
        let tokens = qkv.len() / (3 * self.width);
        let part = |part| self.qkv_matrix(head, part, qkv);
        let dout = self.head_matrix(head, dout);
        // Dropped probabilities are computed again: that costs less than keeping a second array of them.
        let weights = match mask {
            Some(mask) => {
                self.apply_dropout(head, mask, probabilities, dropped);
                &**dropped
            }
            None => probabilities,
        };

        let mut write = |which, a, b| {
            let rows = if matches!(which, QkvPart::Query) {
                dout.rows()
            } else {
                tokens
            };

            let target = self.qkv_matrix_mut(head, which, dqkv, rows);
            let no = Accumulate::No;
            gemm(self.precision, target, no, 1.0, a, b, GemmThreads::One);
        };

        let weights = self.score_matrix(head, weights, tokens);
        write(QkvPart::Value, weights.transposed(), dout);
        gemm(
            self.precision,
            self.score_matrix_mut(head, dscores, tokens),
            Accumulate::No,
            1.0,
            dout,
            part(QkvPart::Value).transposed(),
            GemmThreads::One,
        );

        self.softmax_backward(head, mask, probabilities, dscores, tokens);
        let dscores = self.score_matrix(head, dscores, tokens);
        let queries = part(QkvPart::Query).first_rows(dout.rows());
        write(QkvPart::Query, dscores, part(QkvPart::Key));
        write(QkvPart::Key, dscores.transposed(), queries);
    }

    /// The probabilities of one head.
    fn head_probabilities(
        &self,
        head: usize,
        qkv: &[f32],
        padding: Option<&[u32]>,
        probabilities: &mut [f32],
    ) {
        let keys = self.qkv_matrix(head, QkvPart::Key, qkv);
        let target = self.score_matrix_mut(head, probabilities, keys.rows());
        let queries = self
            .qkv_matrix(head, QkvPart::Query, qkv)
            .first_rows(target.rows());
        gemm(
            self.precision,
            target,
            Accumulate::No,
            self.softmax_scale(),
            queries,
            keys.transposed(),
            GemmThreads::One,
        );

        for row in probabilities.chunks_exact_mut(self.probabilities_per_token()) {
            let scores = &mut row[head * self.max_tokens..][..keys.rows()];
            if let Some(ids) = padding {
                mask_padding(ids, scores);
            }

            softmax_in_place(scores);
        }
    }

    fn apply_dropout(
        &self,
        head: usize,
        mask: DropoutMask,
        probabilities: &[f32],
        dropped: &mut [f32],
    ) {
        let rows = probabilities
            .chunks_exact(self.probabilities_per_token())
            .zip(dropped.chunks_exact_mut(self.probabilities_per_token()));

        for (row, (from, to)) in rows.enumerate() {
            let part = head * self.max_tokens..(head + 1) * self.max_tokens;
            mask.apply_to(
                row * self.probabilities_per_token() + part.start,
                &from[part.clone()],
                &mut to[part],
            );
        }
    }

    /// `dscores` holds the gradient of the dropped probabilities, and becomes that of `q · kᵀ`.
    fn softmax_backward(
        &self,
        head: usize,
        mask: Option<DropoutMask>,
        probabilities: &[f32],
        dscores: &mut [f32],
        tokens: usize,
    ) {
        let scale = self.softmax_scale();
        let rows = probabilities
            .chunks_exact(self.probabilities_per_token())
            .zip(dscores.chunks_exact_mut(self.probabilities_per_token()));

        for (row, (p, d)) in rows.enumerate() {
            let start = head * self.max_tokens;
            let p = &p[start..start + tokens];
            let d = &mut d[start..start + tokens];

            if let Some(mask) = mask {
                let first = row * self.probabilities_per_token() + start;
                d.iter_mut()
                    .enumerate()
                    .for_each(|(i, d)| *d *= mask.element_scale(first + i));
            }

            // The derivative of softmax takes the mean of the gradients, weighted by the probabilities.
            let mean = sum_map(d, |i, d| d * p[i]);
            d.iter_mut()
                .zip(p)
                .for_each(|(d, p)| *d = p * (*d - mean) * scale);
        }
    }

    /// Query, key or value of one head, of all tokens of a sequence.
    fn qkv_matrix<'a>(&self, head: usize, part: QkvPart, qkv: &'a [f32]) -> MatrixView<'a> {
        let qkv_row = 3 * self.width;
        let d = self.head_width();
        let start = part as usize * self.width + head * d;
        MatrixView::strided(&qkv[start..], qkv.len() / qkv_row, d, qkv_row)
    }

    fn qkv_matrix_mut<'a>(
        &self,
        head: usize,
        part: QkvPart,
        qkv: &'a mut [f32],
        rows: usize,
    ) -> MatrixViewMut<'a> {
        let d = self.head_width();
        let start = part as usize * self.width + head * d;
        MatrixViewMut::strided(&mut qkv[start..], rows, d, 3 * self.width)
    }

    fn head_matrix<'a>(&self, head: usize, out: &'a [f32]) -> MatrixView<'a> {
        let d = self.head_width();
        MatrixView::strided(&out[head * d..], out.len() / self.width, d, self.width)
    }

    fn head_matrix_mut<'a>(&self, head: usize, out: &'a mut [f32]) -> MatrixViewMut<'a> {
        let d = self.head_width();
        let rows = out.len() / self.width;
        MatrixViewMut::strided(&mut out[head * d..], rows, d, self.width)
    }

    fn score_matrix<'a>(&self, head: usize, scores: &'a [f32], tokens: usize) -> MatrixView<'a> {
        let rows = scores.len() / self.probabilities_per_token();
        MatrixView::strided(
            &scores[head * self.max_tokens..],
            rows,
            tokens,
            self.probabilities_per_token(),
        )
    }

    fn score_matrix_mut<'a>(
        &self,
        head: usize,
        scores: &'a mut [f32],
        tokens: usize,
    ) -> MatrixViewMut<'a> {
        let rows = scores.len() / self.probabilities_per_token();
        MatrixViewMut::strided(
            &mut scores[head * self.max_tokens..],
            rows,
            tokens,
            self.probabilities_per_token(),
        )
    }
}

/// Lowers the scores of padding so far that softmax gives them a probability of zero.
///
/// # Source
/// The reference adds -10,000 and not minus infinity, so a sequence of nothing but padding attends to all
/// of it instead of dividing zero by zero.
fn mask_padding(ids: &[u32], scores: &mut [f32]) {
    for (score, _) in scores.iter_mut().zip(ids).filter(|(_, id)| **id == 0) {
        *score -= 10_000.0;
    }
}
