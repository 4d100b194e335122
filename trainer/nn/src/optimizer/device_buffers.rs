//! The segments that train as a device walks over them: in chunks of one segment each.

use super::UpdateConstants;
use cnclip_compute::device::{DeviceBuffer, DeviceView, DeviceViewMut};
use cnclip_compute::ops::adamw::gpu::{self as ops, CHUNK_FIELDS};
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::Tensor;

/// The most numbers of a chunk.
const MAX_CHUNK_LEN: usize = 1 << 14;

/// Chunks in a device's memory, and the sums of squares of each.
#[derive(Debug)]
pub(super) struct AdamWBuffers {
    /// Which segments are frozen.
    frozen: Vec<bool>,
    /// How many chunks each segment that trains has.
    chunk_counts: Vec<usize>,
    chunks: DeviceBuffer,
    sums_of_squares: Tensor,
}

impl AdamWBuffers {
    /// None for this machine's memory.
    pub(super) fn new(params: &Params) -> Option<Self> {
        let segments = params.segments();
        let memory = params.memory();
        let trained = || segments.iter().filter(|segment| !segment.frozen);
        let numbers: Vec<u32> = trained().flat_map(segment_chunks).flatten().collect();
        let mut chunks = memory.alloc_u32(numbers.len())?;

        chunks.upload_u32(&numbers);
        Some(Self {
            frozen: segments.iter().map(|segment| segment.frozen).collect(),
            chunk_counts: trained()
                .map(|segment| segment.range.len().div_ceil(MAX_CHUNK_LEN))
                .collect(),
            chunks,
            sums_of_squares: memory.alloc_f32(numbers.len() / CHUNK_FIELDS),
        })
    }

    /// Follows what was frozen or thawed since.
    pub(super) fn refresh_frozen(&mut self, params: &Params) {
        let frozen = params.segments().iter().map(|segment| segment.frozen);
        if frozen.ne(self.frozen.iter().copied())
            && let Some(table) = Self::new(params)
        {
            *self = table;
        }
    }

    /// The sum of squares of each gradient; the device is waited for.
    pub(super) fn sums_of_squares(&mut self, params: &Params) -> Vec<f64> {
        let gradients = params.gradients.view().expect_device();
        ops::chunk_sums_of_squares(
            gradients,
            self.chunks.as_view(),
            &mut self.sums_of_squares.view_mut().expect_device(),
        );

        let sums = self.sums_of_squares.to_host();
        let mut rest = &*sums;
        let sum = |&count: &usize| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.iter().map(|&sum| f64::from(sum)).sum()
        };

        self.chunk_counts.iter().map(sum).collect()
    }

    /// Changes all that trains, given what is done with weights that decay not, and that do.
    pub(super) fn adamw_step(
        &self,
        mut values: DeviceViewMut<'_>,
        (mut first, mut second): (DeviceViewMut<'_>, DeviceViewMut<'_>),
        gradients: DeviceView<'_>,
        [plain, decayed]: [UpdateConstants; 2],
    ) {
        let UpdateConstants {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            keep,
        } = plain;

        let keep_decayed = decayed.keep;
        let step = ops::AdamWConstants {
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
        ops::adamw_step(&mut values, moments, gradients, self.chunks.as_view(), step);
    }
}

/// Where each chunk of a segment begins, how long it is, and whether it decays.
fn segment_chunks(segment: &Segment) -> impl Iterator<Item = [u32; CHUNK_FIELDS]> {
    let range = segment.range.clone();
    let decayed = segment.has_weight_decay();
    range.clone().step_by(MAX_CHUNK_LEN).map(move |start| {
        let len = MAX_CHUNK_LEN.min(range.end - start);
        [start as u32, len as u32, decayed.into()]
    })
}
