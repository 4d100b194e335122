//! The segments that are trained as a device walks over them: in chunks of one segment each.

use cnclip_compute::device::{DeviceBuffer, DeviceView, DeviceViewMut};
use cnclip_compute::ops::adamw::gpu::{self as ops, CHUNK_FIELDS};
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::Tensor;

use super::{GroupConstants, UpdateConstants};

/// The longest chunk: short enough that even one large matrix keeps all multiprocessors busy.
const MAX_CHUNK_LEN: usize = 1 << 14;

/// Chunks on a device, and the sum of squares of each.
#[derive(Debug)]
pub(super) struct AdamWBuffers {
    /// Which segments are frozen.
    frozen: Vec<bool>,
    /// How many chunks each trained segment has.
    chunk_counts: Vec<usize>,
    chunks: DeviceBuffer,
    sums_of_squares: Tensor,
}

impl AdamWBuffers {
    /// None for host memory.
    pub(super) fn new(params: &Params) -> Option<Self> {
        let segments = params.segments();
        let memory = params.memory();
        let trained = || segments.iter().filter(|segment| !segment.frozen);
        let fields: Vec<u32> = trained().flat_map(segment_chunks).flatten().collect();
        let mut chunks = memory.alloc_u32(fields.len())?;
        chunks.upload_u32(&fields);

        let chunk_counts = trained().map(|segment| segment.range.len().div_ceil(MAX_CHUNK_LEN));
        Some(Self {
            frozen: segments.iter().map(|segment| segment.frozen).collect(),
            chunk_counts: chunk_counts.collect(),
            chunks,
            sums_of_squares: memory.alloc_f32(fields.len() / CHUNK_FIELDS),
        })
    }

    /// Rebuilds the chunks if segments were frozen or thawed since.
    pub(super) fn refresh_frozen(&mut self, params: &Params) {
        let frozen = params.segments().iter().map(|segment| segment.frozen);
        if frozen.ne(self.frozen.iter().copied())
            && let Some(buffers) = Self::new(params)
        {
            *self = buffers;
        }
    }

    /// The sum of squares of each trained segment's gradient. Waits for the device.
    pub(super) fn sums_of_squares(&mut self, params: &Params) -> Vec<f64> {
        let gradients = params.gradients.view().expect_device();
        ops::chunk_sums_of_squares(
            gradients,
            self.chunks.as_view(),
            &mut self.sums_of_squares.view_mut().expect_device(),
        );

        // Chunks are added up here, in order: atomic additions on the device would differ from run to run.
        let sums = self.sums_of_squares.to_host();
        let mut rest = &*sums;
        let segment_sum = |&count: &usize| {
            let (chunks, others) = rest.split_at(count);
            rest = others;
            chunks.iter().map(|&sum| f64::from(sum)).sum()
        };

        self.chunk_counts.iter().map(segment_sum).collect()
    }

    /// Updates all trained weights in one launch.
    pub(super) fn adamw_step(
        &self,
        mut values: DeviceViewMut<'_>,
        mut exp_avg: DeviceViewMut<'_>,
        mut exp_avg_sq: DeviceViewMut<'_>,
        gradients: DeviceView<'_>,
        constants: GroupConstants,
    ) {
        // Both groups differ in this alone.
        let keep_decayed = constants.decayed.keep;
        let UpdateConstants {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            keep,
        } = constants.plain;

        let constants = ops::AdamWConstants {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            keep,
            keep_decayed,
        };

        let moments = (&mut exp_avg, &mut exp_avg_sq);
        let chunks = self.chunks.as_view();
        ops::adamw_step(&mut values, moments, gradients, chunks, constants);
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
