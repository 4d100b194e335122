//! Multi-head self-attention over packed sequences: every sequence attends to itself at its own
//! length. Padding costs nothing because it need not be there; where it is, no token sees it.

mod cpu;
pub mod gpu;

use cnclip_crds::stage::Precision;
pub(super) use cpu::softmax;

use crate::ops::dropout::Dropout;
use crate::ops::flash_attention::gpu as tiled;
use crate::ops::rows::Sequences;
use crate::tensor::{Array, Memory, View, ViewMut};

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
    pub longest: usize,
    /// Number format of the products; the softmax between them is in fp32.
    pub precision: Precision,
    /// Whether a device makes probabilities tile by tile, and keeps one number for each head of them.
    pub tiled: bool,
}

impl Attention {
    /// Attention in some memory, of sequences of at most so many tokens.
    pub fn within(
        memory: &Memory,
        (heads, width): (usize, usize),
        longest: usize,
        precision: Precision,
    ) -> Self {
        let tiled = memory.device().is_some() && tiled::serves(precision, width / heads);
        Self {
            heads,
            width,
            longest,
            precision,
            tiled,
        }
    }

    /// Numbers for each kept token in `probabilities` and in either scratch array.
    pub fn row(&self) -> usize {
        if self.tiled {
            self.heads
        } else {
            self.heads * self.longest
        }
    }

    /// Memory for the probabilities of so many kept tokens, or for a scratch array.
    pub fn reserve(&self, memory: &Memory, kept: usize) -> Array {
        let len = kept * self.row();
        if self.tiled {
            memory.exact(len)
        } else {
            memory.array(len)
        }
    }

    /// Writes `out`, and the probabilities that the backward needs; `dropped` is scratch.
    pub fn forward(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        qkv: View<'_>,
        (probabilities, dropped): (ViewMut<'_>, ViewMut<'_>),
        out: ViewMut<'_>,
    ) {
        match out {
            ViewMut::Host(out) => {
                let weights = (probabilities.host(), dropped.host());
                self.forward_host(sequences, dropout, qkv.host(), weights, out);
            }
            ViewMut::Device(mut out) if self.tiled => {
                let log_sums = &mut probabilities.device();
                tiled::forward(self, sequences, dropout, qkv.device(), log_sums, &mut out);
            }
            ViewMut::Device(mut out) => {
                let weights = (&mut probabilities.device(), &mut dropped.device());
                gpu::forward(self, sequences, dropout, qkv.device(), weights, &mut out);
            }
        }
    }

    /// Writes `dqkv`, given what the forward was given and wrote; `dropped` and `dscores` are scratch
    /// of the shape of `probabilities`.
    pub fn backward(
        &self,
        sequences: Sequences<'_>,
        dropout: Dropout,
        (qkv, probabilities, out): (View<'_>, View<'_>, View<'_>),
        dout: View<'_>,
        (dropped, dscores): (ViewMut<'_>, ViewMut<'_>),
        dqkv: ViewMut<'_>,
    ) {
        match dqkv {
            ViewMut::Host(dqkv) => {
                let saved = (qkv.host(), probabilities.host());
                let dout = dout.host();
                let scratch = (dropped.host(), dscores.host());
                self.backward_host(sequences, dropout, saved, dout, scratch, dqkv);
            }
            ViewMut::Device(mut dqkv) if self.tiled => {
                let saved = (qkv.device(), probabilities.device(), out.device());
                let dout = dout.device();
                let along = &mut dscores.device();
                tiled::backward(self, sequences, dropout, saved, dout, along, &mut dqkv);
            }
            ViewMut::Device(mut dqkv) => {
                let saved = (qkv.device(), probabilities.device());
                let dout = dout.device();
                let scratch = (&mut dropped.device(), &mut dscores.device());
                gpu::backward(self, sequences, dropout, saved, dout, scratch, &mut dqkv);
            }
        }
    }
}
