//! Multi-head attention of one query per picture: each picture's query sees all tokens of that
//! picture, so there is one row of probabilities and no need of matrix products.

pub mod gpu;

use rayon::prelude::*;

use crate::math::dot_product;
use crate::ops::attention::softmax_in_place;
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// `out = softmax_in_place(q · kᵀ / sqrt(d)) · v` for each head.
///
/// # Shapes
/// `q`, `out` [batch, width]; `kv` [batch, tokens, 2 · width], key and value of a token side by side;
/// `probabilities` [batch, heads, tokens], an exact array.
#[derive(Clone, Copy, Debug)]
pub struct SingleQueryAttention {
    /// Heads.
    pub heads: usize,
    /// Width of a token: heads times the width of a head.
    pub width: usize,
    /// Tokens of a picture.
    pub tokens: usize,
}

impl SingleQueryAttention {
    /// Writes `out`, and the probabilities that the backward needs.
    pub fn forward(
        self,
        q: TensorView<'_>,
        kv: TensorView<'_>,
        probabilities: TensorViewMut<'_>,
        out: TensorViewMut<'_>,
    ) {
        match (q, kv, probabilities, out) {
            (
                TensorView::Host(q),
                TensorView::Host(kv),
                TensorViewMut::Host(p),
                TensorViewMut::Host(out),
            ) => {
                self.forward_host(q, kv, p, out);
            }
            (
                TensorView::Device(q),
                TensorView::Device(kv),
                TensorViewMut::Device(p),
                TensorViewMut::Device(out),
            ) => {
                gpu::forward(self, q, kv, p, out);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Writes `dq` and `dkv`.
    pub fn backward(
        self,
        (q, kv): (TensorView<'_>, TensorView<'_>),
        (probabilities, out): (TensorView<'_>, TensorView<'_>),
        dout: TensorView<'_>,
        (dq, dkv): (TensorViewMut<'_>, TensorViewMut<'_>),
    ) {
        match ((q, kv), (probabilities, out), dout, (dq, dkv)) {
            (
                (TensorView::Host(q), TensorView::Host(kv)),
                (TensorView::Host(p), TensorView::Host(out)),
                TensorView::Host(dout),
                (TensorViewMut::Host(dq), TensorViewMut::Host(dkv)),
            ) => self.backward_host((q, kv), (p, out), dout, (dq, dkv)),
            (
                (TensorView::Device(q), TensorView::Device(kv)),
                (TensorView::Device(p), TensorView::Device(out)),
                TensorView::Device(dout),
                (TensorViewMut::Device(dq), TensorViewMut::Device(dkv)),
            ) => gpu::backward(self, (q, kv), (p, out), dout, (dq, dkv)),
            _ => panic_mixed_memories(),
        }
    }

    fn forward_host(self, q: &[f32], kv: &[f32], probabilities: &mut [f32], out: &mut [f32]) {
        let head = self.head_width();
        let pictures = out.par_chunks_mut(self.width).zip(q.par_chunks(self.width));
        let tokens = kv.par_chunks(self.tokens * 2 * self.width);
        let rows = probabilities.par_chunks_mut(self.heads * self.tokens);
        pictures
            .zip(tokens.zip(rows))
            .for_each(|((out, q), (kv, rows))| {
                let heads = out.chunks_exact_mut(head).zip(q.chunks_exact(head));
                for (at, ((out, q), p)) in heads.zip(rows.chunks_exact_mut(self.tokens)).enumerate()
                {
                    for (p, (key, _)) in p.iter_mut().zip(self.key_value_pairs(kv, at)) {
                        *p = dot_product(q, key) * self.softmax_scale();
                    }

                    softmax_in_place(p);
                    out.fill(0.0);
                    for (p, (_, value)) in p.iter().zip(self.key_value_pairs(kv, at)) {
                        add_scaled(out, *p, value);
                    }
                }
            });
    }

    fn backward_host(
        self,
        (q, kv): (&[f32], &[f32]),
        (probabilities, out): (&[f32], &[f32]),
        dout: &[f32],
        (dq, dkv): (&mut [f32], &mut [f32]),
    ) {
        let width = self.width;
        let all = self.tokens * 2 * self.width;
        let forward = (
            q.par_chunks(width),
            kv.par_chunks(all),
            out.par_chunks(width),
        );

        let rows = probabilities.par_chunks(self.heads * self.tokens);
        let inner = forward.0.zip(forward.1).zip(forward.2.zip(rows));
        let outer = dq.par_chunks_mut(width).zip(dkv.par_chunks_mut(all));
        let work = inner.zip(outer.zip(dout.par_chunks(width)));
        work.for_each(|(((q, kv), (out, rows)), ((dq, dkv), dout))| {
            for (at, p) in rows.chunks_exact(self.tokens).enumerate() {
                let part = at * self.head_width()..(at + 1) * self.head_width();
                let q = &q[part.clone()];
                let out = &out[part.clone()];
                let dout = &dout[part.clone()];
                self.backward_head(at, (q, kv), (p, out), dout, (&mut dq[part], dkv));
            }
        });
    }

    fn backward_head(
        self,
        at: usize,
        (q, kv): (&[f32], &[f32]),
        (probabilities, out): (&[f32], &[f32]),
        dout: &[f32],
        (dq, dkv): (&mut [f32], &mut [f32]),
    ) {
        dq.fill(0.0);
        let mean = dot_product(dout, out);
        let tokens = self
            .key_value_pairs(kv, at)
            .zip(dkv.chunks_exact_mut(2 * self.width));

        for (p, ((key, value), dkv)) in probabilities.iter().zip(tokens) {
            let dscore = p * (dot_product(dout, value) - mean) * self.softmax_scale();
            add_scaled(dq, dscore, key);
            let (dkey, dvalue) = dkv.split_at_mut(self.width);
            let part = at * self.head_width()..(at + 1) * self.head_width();
            dkey[part.clone()]
                .iter_mut()
                .zip(q)
                .for_each(|(dkey, q)| *dkey = dscore * q);

            dvalue[part]
                .iter_mut()
                .zip(dout)
                .for_each(|(dvalue, dout)| *dvalue = p * dout);
        }
    }

    /// Key and value of one head of each token of a picture.
    fn key_value_pairs<'a>(
        self,
        kv: &'a [f32],
        at: usize,
    ) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        let key = at * self.head_width();
        let value = self.width + at * self.head_width();
        let part = move |row: &'a [f32], start: usize| &row[start..start + self.head_width()];
        kv.chunks_exact(2 * self.width)
            .map(move |row| (part(row, key), part(row, value)))
    }

    pub(crate) fn head_width(self) -> usize {
        self.width / self.heads
    }

    pub(crate) fn softmax_scale(self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }
}

fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += factor * value);
}
