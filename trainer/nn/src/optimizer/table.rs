//! The segments that train as a device walks over them: in chunks of one segment each.

use super::Update;
use cnclip_compute::device::{Buffer, Span, SpanMut};
use cnclip_compute::ops::adamw::gpu::{self as ops, CHUNK};
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::Array;

/// The most numbers of a chunk.
const LARGEST: usize = 1 << 14;

/// Chunks in a device's memory, and the sums of squares of each.
#[derive(Debug)]
pub(super) struct Table {
    /// Which segments are frozen.
    frozen: Vec<bool>,
    /// How many chunks each segment that trains has.
    counts: Vec<usize>,
    chunks: Buffer,
    sums: Array,
}

impl Table {
    /// None for this machine's memory.
    pub(super) fn new(params: &Params) -> Option<Self> {
        let segments = params.segments();
        let memory = params.memory();
        let trained = || segments.iter().filter(|segment| !segment.frozen);
        let numbers: Vec<u32> = trained().flat_map(chunks).flatten().collect();
        let mut chunks = memory.whole(numbers.len())?;

        chunks.take_whole(&numbers);
        Some(Self {
            frozen: segments.iter().map(|segment| segment.frozen).collect(),
            counts: trained()
                .map(|segment| segment.range.len().div_ceil(LARGEST))
                .collect(),
            chunks,
            sums: memory.exact(numbers.len() / CHUNK),
        })
    }

    /// Follows what was frozen or thawed since.
    pub(super) fn follow(&mut self, params: &Params) {
        let frozen = params.segments().iter().map(|segment| segment.frozen);
        if frozen.ne(self.frozen.iter().copied())
            && let Some(table) = Self::new(params)
        {
            *self = table;
        }
    }

    /// The sum of squares of each gradient; the device is waited for.
    pub(super) fn squares(&mut self, params: &Params) -> Vec<f64> {
        let gradients = params.gradients.view().device();
        ops::squares(
            gradients,
            self.chunks.span(),
            &mut self.sums.view_mut().device(),
        );

        let sums = self.sums.read();
        let mut rest = &*sums;
        let sum = |&count: &usize| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.iter().map(|&sum| f64::from(sum)).sum()
        };

        self.counts.iter().map(sum).collect()
    }

    /// Changes all that trains, given what is done with weights that decay not, and that do.
    pub(super) fn step(
        &self,
        mut values: SpanMut<'_>,
        (mut first, mut second): (SpanMut<'_>, SpanMut<'_>),
        gradients: Span<'_>,
        [plain, decayed]: [Update; 2],
    ) {
        let Update {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            keep,
        } = plain;

        let keep_decayed = decayed.keep;
        let step = ops::Step {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            keep,
            keep_decayed,
        };

        let moments = (&mut first, &mut second);
        ops::step(&mut values, moments, gradients, self.chunks.span(), step);
    }
}

/// Where each chunk of a segment begins, how long it is, and whether it decays.
fn chunks(segment: &Segment) -> impl Iterator<Item = [u32; CHUNK]> {
    let range = segment.range.clone();
    let decayed = segment.decayed();
    range.clone().step_by(LARGEST).map(move |start| {
        let len = LARGEST.min(range.end - start);
        [start as u32, len as u32, decayed.into()]
    })
}
