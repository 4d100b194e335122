//! Multi-head attention of a single query per image: the query attends to all tokens of its image, so
//! there is one row of probabilities and no need of matrix products.

mod cpu;
mod gpu;

use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// `out = softmax(q · kᵀ / sqrt(head width)) · v` for each head.
///
/// # Shapes
/// `q`, `out` `[batch, width]`; `kv` `[batch, tokens, 2 · width]`, key and value of a token side by side;
/// `probabilities` `[batch, heads, tokens]`, always fp32.
///
/// ```
/// use cnclip_compute::ops::attention_pool::SingleQueryAttention;
///
/// let attention = SingleQueryAttention { heads: 1, width: 1, tokens: 2 };
/// let q = vec![0.0];
/// let kv = vec![5.0, 1.0, 7.0, 3.0];
/// let mut probabilities = vec![0.0; 2];
/// let mut out = vec![0.0];
/// attention.forward(
///     (&q).into(),
///     (&kv).into(),
///     (&mut probabilities).into(),
///     (&mut out).into(),
/// );
/// assert_eq!((probabilities, out), (vec![0.5, 0.5], vec![2.0]));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SingleQueryAttention {
    /// Heads.
    pub heads: usize,
    /// Width of a token: heads times the width of a head.
    pub width: usize,
    /// Tokens of an image.
    pub tokens: usize,
}

/// What the backward needs of the forward: what it was given and what it wrote.
#[derive(Clone, Copy, Debug)]
pub struct SingleQueryCache<'a> {
    /// The queries.
    pub q: TensorView<'a>,
    /// Keys and values.
    pub kv: TensorView<'a>,
    /// The probabilities that the forward wrote.
    pub probabilities: TensorView<'a>,
    /// The output that the forward wrote.
    pub out: TensorView<'a>,
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
                TensorViewMut::Host(probabilities),
                TensorViewMut::Host(out),
            ) => self.forward_host(q, kv, probabilities, out),
            (
                TensorView::Device(q),
                TensorView::Device(kv),
                TensorViewMut::Device(probabilities),
                TensorViewMut::Device(out),
            ) => gpu::forward(self, q, kv, probabilities, out),
            _ => panic_mixed_memories(),
        }
    }

    /// Writes `dq` and `dkv`.
    pub fn backward(
        self,
        cache: SingleQueryCache<'_>,
        dout: TensorView<'_>,
        dq: TensorViewMut<'_>,
        dkv: TensorViewMut<'_>,
    ) {
        match (dq, dkv) {
            (TensorViewMut::Host(dq), TensorViewMut::Host(dkv)) => {
                let cache = cpu::HostCache {
                    q: cache.q.expect_host(),
                    kv: cache.kv.expect_host(),
                    probabilities: cache.probabilities.expect_host(),
                    out: cache.out.expect_host(),
                };

                self.backward_host(cache, dout.expect_host(), dq, dkv);
            }
            (TensorViewMut::Device(dq), TensorViewMut::Device(dkv)) => {
                let cache = gpu::DeviceCache {
                    q: cache.q.expect_device(),
                    kv: cache.kv.expect_device(),
                    probabilities: cache.probabilities.expect_device(),
                    out: cache.out.expect_device(),
                };

                gpu::backward(self, cache, dout.expect_device(), dq, dkv);
            }
            _ => panic_mixed_memories(),
        }
    }

    fn head_width(self) -> usize {
        self.width / self.heads
    }

    fn softmax_scale(self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }
}
