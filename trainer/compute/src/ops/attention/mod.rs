//! Multi-head self-attention over packed sequences: every sequence attends to itself at its own
//! length. Padding is usually absent and costs nothing; where it is present, no token attends to it.
//!
//! A device has two implementations: `gpu` writes all probabilities to memory, for any head width and
//! number format; `flash` never does, for bfloat16 and the head widths of the published models.

mod batched_gemm;
mod cpu;
mod flash;
mod gpu;

use cnclip_crds::stage::Precision;
pub use flash::is_supported as is_flash_supported;

use crate::ops::dropout::Dropout;
use crate::ops::sequences::Sequences;
use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// `out = dropout(softmax(q · kᵀ / sqrt(head width))) · v` for each head.
///
/// # Shapes
/// `qkv` [tokens, 3 · width]: query, key and value of a token side by side, each head after head.
/// `out` `[pooled tokens, width]`. `probabilities` `[pooled tokens, heads · max tokens]`; with flash attention
/// [pooled tokens, heads]: the logarithm of each softmax's denominator.
///
/// ```
/// use cnclip_compute::ops::attention::Attention;
/// use cnclip_compute::ops::dropout::Dropout;
/// use cnclip_compute::ops::sequences::Sequences;
/// use cnclip_compute::tensor::Memory;
/// use cnclip_crds::stage::Precision;
///
/// let attention = Attention::for_memory(&Memory::Host, 1, 1, 2, Precision::Fp32);
/// let qkv = vec![0.0, 1.0, 3.0, 0.0, 1.0, 5.0]; // two tokens whose keys are equal
/// let mut probabilities = attention.alloc_probabilities(&Memory::Host, 2);
/// let mut dropped = attention.alloc_probabilities(&Memory::Host, 2);
/// let mut out = vec![0.0; 2];
/// attention.forward(
///     Sequences::new(&[0, 2]),
///     Dropout::NONE,
///     (&qkv).into(),
///     probabilities.view_mut(),
///     dropped.view_mut(),
///     (&mut out).into(),
/// );
/// assert_eq!(out, [4.0, 4.0]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads.
    pub heads: usize,
    /// Width of a token: heads times the width of a head.
    pub width: usize,
    /// Tokens of the longest sequence that memory is allocated for.
    pub max_tokens: usize,
    /// Number format of the products; the softmax between them is in fp32.
    pub precision: Precision,
    /// Whether a device uses flash attention, which keeps one number a head instead of all probabilities.
    pub flash: bool,
}

/// What the backward needs of the forward: what it was given and what it wrote.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCache<'a> {
    /// Queries, keys and values.
    pub qkv: TensorView<'a>,
    /// The probabilities that the forward wrote.
    pub probabilities: TensorView<'a>,
    /// The output that the forward wrote.
    pub out: TensorView<'a>,
}

/// Memory of the backward that holds nothing between calls.
///
/// # Shapes
/// Both as `probabilities`.
#[derive(Debug)]
pub struct AttentionScratch<'a> {
    /// Probabilities after dropout.
    pub dropped: TensorViewMut<'a>,
    /// Gradients of the scores.
    pub dscores: TensorViewMut<'a>,
}

impl Attention {
    /// Attention in some memory, of sequences of at most `max_tokens` tokens.
    pub fn for_memory(
        memory: &Memory,
        heads: usize,
        width: usize,
        max_tokens: usize,
        precision: Precision,
    ) -> Self {
        let flash = memory.device().is_some() && is_flash_supported(precision, width / heads);
        Self {
            heads,
            width,
            max_tokens,
            precision,
            flash,
        }
    }

    /// Numbers for each pooled token in `probabilities` and in either scratch array.
    pub fn probabilities_per_token(&self) -> usize {
        if self.flash {
            self.heads
        } else {
            self.heads * self.max_tokens
        }
    }

    /// Memory for the probabilities of so many pooled tokens, or for a scratch array.
    pub fn alloc_probabilities(&self, memory: &Memory, pooled: usize) -> Tensor {
        let len = pooled * self.probabilities_per_token();
        if self.flash {
            // Logarithms of sums, from which the backward recovers probabilities: bf16 is too coarse.
            memory.alloc_f32(len)
        } else {
            memory.alloc_activations(len)
        }
    }

    /// Writes `out`, and the probabilities that the backward needs; `dropped` is scratch.
    pub fn forward(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        qkv: TensorView<'_>,
        probabilities: TensorViewMut<'_>,
        dropped: TensorViewMut<'_>,
        out: TensorViewMut<'_>,
    ) {
        let mut out = match out {
            TensorViewMut::Host(out) => {
                let qkv = qkv.expect_host();
                let probabilities = probabilities.expect_host();
                let dropped = dropped.expect_host();
                return self.forward_host(sequences, dropout, qkv, probabilities, dropped, out);
            }
            TensorViewMut::Device(out) => out,
        };

        let qkv = qkv.expect_device();
        let probabilities = &mut probabilities.expect_device();
        if self.flash {
            flash::forward(self, sequences, dropout, qkv, probabilities, &mut out);
        } else {
            let dropped = &mut dropped.expect_device();
            gpu::forward(
                self,
                sequences,
                dropout,
                qkv,
                probabilities,
                dropped,
                &mut out,
            );
        }
    }

    /// Writes `dqkv`.
    pub fn backward(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        cache: AttentionCache<'_>,
        dout: TensorView<'_>,
        scratch: AttentionScratch<'_>,
        dqkv: TensorViewMut<'_>,
    ) {
        let mut dqkv = match dqkv {
            TensorViewMut::Host(dqkv) => {
                let cache = cpu::HostCache {
                    qkv: cache.qkv.expect_host(),
                    probabilities: cache.probabilities.expect_host(),
                };

                let scratch = cpu::HostScratch {
                    dropped: scratch.dropped.expect_host(),
                    dscores: scratch.dscores.expect_host(),
                };

                let dout = dout.expect_host();
                return self.backward_host(sequences, dropout, cache, dout, scratch, dqkv);
            }
            TensorViewMut::Device(dqkv) => dqkv,
        };

        let dout = dout.expect_device();
        let dscores = &mut scratch.dscores.expect_device();
        if self.flash {
            let cache = flash::FlashCache {
                qkv: cache.qkv.expect_device(),
                log_sums: cache.probabilities.expect_device(),
                out: cache.out.expect_device(),
            };

            // Here the scratch has one number a row and head: `dout · out` instead of gradients of
            // scores.
            flash::backward(self, sequences, dropout, cache, dout, dscores, &mut dqkv);
        } else {
            let cache = gpu::DeviceCache {
                qkv: cache.qkv.expect_device(),
                probabilities: cache.probabilities.expect_device(),
            };

            let scratch = gpu::DeviceScratch {
                dropped: &mut scratch.dropped.expect_device(),
                dscores,
            };

            gpu::backward(self, sequences, dropout, cache, dout, scratch, &mut dqkv);
        }
    }

    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    fn softmax_scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }
}
