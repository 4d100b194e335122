//! Multi-head self-attention over packed sequences: every sequence attends to itself at its own
//! length. Padding costs nothing because it need not be there; where it is, no token sees it.

mod cpu;
pub mod gpu;

use cnclip_crds::stage::Precision;
pub(super) use cpu::softmax_in_place;

use crate::ops::dropout::Dropout;
use crate::ops::flash_attention::gpu as tiled;
use crate::ops::sequences::Sequences;
use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// `out = dropout(softmax(q · kᵀ / sqrt(d))) · v` for each head.
///
/// # Shapes
/// `qkv` [tokens, 3 · width]: query, key and value of a token side by side, each head after head.
/// `out` [kept, width]. `probabilities` [kept, heads · longest].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads.
    pub heads: usize,
    /// Width of a token: heads times the width of a head.
    pub width: usize,
    /// Tokens of the longest sequence that memory is there for.
    pub max_tokens: usize,
    /// Number format of the products; the softmax between them is in fp32.
    pub precision: Precision,
    /// Whether a device makes probabilities tile by tile, and keeps one number for each head of them.
    pub flash: bool,
}

impl Attention {
    /// Attention in some memory, of sequences of at most so many tokens.
    pub fn for_memory(
        memory: &Memory,
        (heads, width): (usize, usize),
        longest: usize,
        precision: Precision,
    ) -> Self {
        let tiled = memory.device().is_some() && tiled::is_supported(precision, width / heads);
        Self {
            heads,
            width,
            max_tokens: longest,
            precision,
            flash: tiled,
        }
    }

    /// Numbers for each kept token in `probabilities` and in either scratch array.
    pub fn probabilities_per_token(&self) -> usize {
        if self.flash {
            self.heads
        } else {
            self.heads * self.max_tokens
        }
    }

    /// Memory for the probabilities of so many kept tokens, or for a scratch array.
    pub fn alloc_probabilities(&self, memory: &Memory, kept: usize) -> Tensor {
        let len = kept * self.probabilities_per_token();
        if self.flash {
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
        (probabilities, dropped): (TensorViewMut<'_>, TensorViewMut<'_>),
        out: TensorViewMut<'_>,
    ) {
        match out {
            TensorViewMut::Host(out) => {
                let weights = (probabilities.expect_host(), dropped.expect_host());
                self.forward_host(sequences, dropout, qkv.expect_host(), weights, out);
            }
            TensorViewMut::Device(mut out) if self.flash => {
                let log_sums = &mut probabilities.expect_device();
                tiled::forward(
                    self,
                    sequences,
                    dropout,
                    qkv.expect_device(),
                    log_sums,
                    &mut out,
                );
            }
            TensorViewMut::Device(mut out) => {
                let weights = (
                    &mut probabilities.expect_device(),
                    &mut dropped.expect_device(),
                );
                gpu::forward(
                    self,
                    sequences,
                    dropout,
                    qkv.expect_device(),
                    weights,
                    &mut out,
                );
            }
        }
    }

    /// Writes `dqkv`, given what the forward was given and wrote; `dropped` and `dscores` are scratch
    /// of the shape of `probabilities`.
    pub fn backward(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        (qkv, probabilities, out): (TensorView<'_>, TensorView<'_>, TensorView<'_>),
        dout: TensorView<'_>,
        (dropped, dscores): (TensorViewMut<'_>, TensorViewMut<'_>),
        dqkv: TensorViewMut<'_>,
    ) {
        match dqkv {
            TensorViewMut::Host(dqkv) => {
                let saved = (qkv.expect_host(), probabilities.expect_host());
                let dout = dout.expect_host();
                let scratch = (dropped.expect_host(), dscores.expect_host());
                self.backward_host(sequences, dropout, saved, dout, scratch, dqkv);
            }
            TensorViewMut::Device(mut dqkv) if self.flash => {
                let saved = (
                    qkv.expect_device(),
                    probabilities.expect_device(),
                    out.expect_device(),
                );
                let dout = dout.expect_device();
                let along = &mut dscores.expect_device();
                tiled::backward(self, sequences, dropout, saved, dout, along, &mut dqkv);
            }
            TensorViewMut::Device(mut dqkv) => {
                let saved = (qkv.expect_device(), probabilities.expect_device());
                let dout = dout.expect_device();
                let scratch = (&mut dropped.expect_device(), &mut dscores.expect_device());
                gpu::backward(self, sequences, dropout, saved, dout, scratch, &mut dqkv);
            }
        }
    }
}
