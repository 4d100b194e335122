//! Attention of a single query on the CPU: a task for each image.

use std::ops::Range;

use rayon::prelude::*;

use super::SingleQueryAttention;
use crate::math::{dot_product, softmax_in_place};

/// What the backward needs of the forward, of all images or of one.
#[derive(Clone, Copy)]
pub(super) struct HostCache<'a> {
    pub(super) q: &'a [f32],
    pub(super) kv: &'a [f32],
    pub(super) probabilities: &'a [f32],
    pub(super) out: &'a [f32],
}

impl SingleQueryAttention {
    pub(super) fn forward_host(
        self,
        q: &[f32],
        kv: &[f32],
        probabilities: &mut [f32],
        out: &mut [f32],
    ) {
        let head_width = self.head_width();
        let queries = out.par_chunks_mut(self.width).zip(q.par_chunks(self.width));
        let tokens = kv.par_chunks(self.kv_len());
        let rows = probabilities.par_chunks_mut(self.heads * self.tokens);

        queries
            .zip(tokens.zip(rows))
            .for_each(|((out, q), (kv, rows))| {
                let heads = out
                    .chunks_exact_mut(head_width)
                    .zip(q.chunks_exact(head_width))
                    .zip(rows.chunks_exact_mut(self.tokens));

                for (head, ((out, q), p)) in heads.enumerate() {
                    for (p, (key, _)) in p.iter_mut().zip(self.key_value_pairs(kv, head)) {
                        *p = dot_product(q, key) * self.softmax_scale();
                    }

                    softmax_in_place(p);
                    out.fill(0.0);
                    for (p, (_, value)) in p.iter().zip(self.key_value_pairs(kv, head)) {
                        add_scaled(out, *p, value);
                    }
                }
            });
    }

    pub(super) fn backward_host(
        self,
        cache: HostCache<'_>,
        dout: &[f32],
        dq: &mut [f32],
        dkv: &mut [f32],
    ) {
        let width = self.width;
        let inputs = cache
            .q
            .par_chunks(width)
            .zip(cache.kv.par_chunks(self.kv_len()));
        let rows = cache.probabilities.par_chunks(self.heads * self.tokens);
        let outputs = cache.out.par_chunks(width).zip(rows);
        let gradients = dq
            .par_chunks_mut(width)
            .zip(dkv.par_chunks_mut(self.kv_len()))
            .zip(dout.par_chunks(width));

        let images = inputs.zip(outputs).zip(gradients);
        images.for_each(|(((q, kv), (out, probabilities)), ((dq, dkv), dout))| {
            let cache = HostCache {
                q,
                kv,
                probabilities,
                out,
            };

            for head in 0..self.heads {
                self.backward_head(head, cache, dout, dq, dkv);
            }
        });
    }

    /// One head of one image.
    fn backward_head(
        self,
        head: usize,
        cache: HostCache<'_>,
        dout: &[f32],
        dq: &mut [f32],
        dkv: &mut [f32],
    ) {
        let part = self.head_range(head);
        let q = &cache.q[part.clone()];
        let dout = &dout[part.clone()];
        let dq = &mut dq[part.clone()];
        let probabilities = &cache.probabilities[head * self.tokens..][..self.tokens];

        dq.fill(0.0);
        // Σ p · dp over the row, which the derivative of softmax takes from each dp, is `dout · out`.
        let mean = dot_product(dout, &cache.out[part.clone()]);
        let tokens = self
            .key_value_pairs(cache.kv, head)
            .zip(dkv.chunks_exact_mut(2 * self.width));

        for (p, ((key, value), dkv)) in probabilities.iter().zip(tokens) {
            let dscore = p * (dot_product(dout, value) - mean) * self.softmax_scale();
            add_scaled(dq, dscore, key);

            let (dkey, dvalue) = dkv.split_at_mut(self.width);
            write_scaled(&mut dkey[part.clone()], dscore, q);
            write_scaled(&mut dvalue[part.clone()], *p, dout);
        }
    }

    /// Key and value of one head of each token of an image.
    fn key_value_pairs(self, kv: &[f32], head: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        let part = self.head_range(head);
        kv.chunks_exact(2 * self.width).map(move |token| {
            let (key, value) = token.split_at(self.width);
            (&key[part.clone()], &value[part.clone()])
        })
    }

    /// Where a head lies in a row of the width.
    fn head_range(self, head: usize) -> Range<usize> {
        head * self.head_width()..(head + 1) * self.head_width()
    }

    /// Numbers of the keys and values of an image.
    fn kv_len(self) -> usize {
        self.tokens * 2 * self.width
    }
}

/// `sums += factor · values`.
#[inline(always)]
fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += factor * value);
}

/// `target = factor · values`.
#[inline(always)]
fn write_scaled(target: &mut [f32], factor: f32, values: &[f32]) {
    target
        .iter_mut()
        .zip(values)
        .for_each(|(target, value)| *target = factor * value);
}
