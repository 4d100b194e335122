//! How vectors are stretched, in a device's memory.

use super::Stretch;
use cnclip_compute::device::Buffer;
use cnclip_compute::ops::distillation::gpu as ops;
use cnclip_compute::tensor::{Array, Memory, View};

/// The places of stretched vectors, found from either side.
#[derive(Debug)]
pub(super) struct Held {
    firsts: Buffer,
    begins: Buffer,
    shares: Array,
}

impl Held {
    /// None for this machine's memory.
    pub(super) fn new(memory: &Memory, stretch: &Stretch) -> Option<Self> {
        let Stretch { width, places } = stretch;
        let firsts: Vec<u32> = places.iter().map(|(first, ..)| *first as u32).collect();
        let shares: Vec<f32> = places.iter().map(|(.., share)| *share).collect();
        // Left neighbours come in order.
        let begin = |at: usize| firsts.partition_point(|&first| (first as usize) < at) as u32;
        let begins: Vec<u32> = (0..=*width).map(begin).collect();
        let mut held = Self {
            firsts: memory.whole(firsts.len())?,
            begins: memory.whole(begins.len())?,
            shares: memory.exact(shares.len()),
        };

        held.firsts.take_whole(&firsts);
        held.begins.take_whole(&begins);
        held.shares.copy_from(View::Host(&shares));
        Some(held)
    }

    pub(super) fn stretch(&self) -> ops::Stretch<'_> {
        let firsts = self.firsts.span();
        let begins = self.begins.span();
        ops::Stretch {
            firsts,
            begins,
            shares: self.shares.view().device(),
        }
    }
}
