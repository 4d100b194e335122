//! AdamW on a device: all ranges in one launch, cut into chunks of which none holds numbers of two ranges.

use super::{AdamWConstants, UpdateRange};
use crate::device::{DeviceBuffer, DeviceView, DeviceViewMut, KernelLaunch};
use crate::tensor::{Memory, Tensor};

/// Numbers of the table for each chunk: where it begins, how long it is, whether its weights decay.
const CHUNK_FIELDS: usize = 3;

/// The longest chunk: short enough that even one large matrix keeps all multiprocessors busy.
const MAX_CHUNK_LEN: usize = 1 << 14;

/// Chunks on a device, and the sum of squares of each.
#[derive(Debug)]
pub(super) struct ChunkTable {
    /// How many chunks each range has.
    counts: Vec<usize>,
    chunks: DeviceBuffer,
    sums_of_squares: Tensor,
}

impl ChunkTable {
    /// None for host memory.
    pub(super) fn new(memory: &Memory, ranges: &[UpdateRange]) -> Option<Self> {
        let fields: Vec<u32> = ranges.iter().flat_map(chunk_fields).flatten().collect();
        let mut chunks = memory.alloc_u32(fields.len())?;
        // Once and not in every step: the ranges do not change.
        chunks.upload_u32(&fields);

        let count = |range: &UpdateRange| range.range.len().div_ceil(MAX_CHUNK_LEN);
        Some(Self {
            counts: ranges.iter().map(count).collect(),
            chunks,
            sums_of_squares: memory.alloc_f32(fields.len() / CHUNK_FIELDS),
        })
    }

    /// The sum of squares of each range. Waits for the device.
    pub(super) fn sums_of_squares(&mut self, gradients: DeviceView<'_>) -> Vec<f64> {
        let device = gradients.device();
        let mut sums = self.sums_of_squares.view_mut().expect_device();
        KernelLaunch::new("optimizer_squares")
            .with_grid(sums.len(), 1, 1)
            .arg_input(gradients)
            .arg_input(self.chunks.as_view())
            .arg_output(&mut sums)
            .launch_on(device);

        // Chunks are added here, in order and in fp64: atomics on the device would differ from run to run.
        let sums = self.sums_of_squares.to_host();
        let mut rest = &*sums;
        let range_sum = |&count: &usize| {
            let (chunks, others) = rest.split_at(count);
            rest = others;
            chunks.iter().map(|&sum| f64::from(sum)).sum()
        };

        self.counts.iter().map(range_sum).collect()
    }

    /// Updates all ranges in one launch.
    pub(super) fn step(
        &self,
        values: &mut DeviceViewMut<'_>,
        exp_avg: &mut DeviceViewMut<'_>,
        exp_avg_sq: &mut DeviceViewMut<'_>,
        gradients: DeviceView<'_>,
        constants: AdamWConstants,
    ) {
        let device = values.device();
        KernelLaunch::new("optimizer_step")
            .with_grid(self.chunks.len() / CHUNK_FIELDS, 1, 1)
            .arg_output(values)
            .arg_bf16_output(values)
            .arg_output(exp_avg)
            .arg_output(exp_avg_sq)
            .arg_input(gradients)
            .arg_input(self.chunks.as_view())
            .arg_f32(constants.beta_1)
            .arg_f32(constants.beta_2)
            .arg_f32(constants.epsilon)
            .arg_f32(constants.clip)
            .arg_f32(constants.rate)
            .arg_f32(constants.correction)
            .arg_f32(constants.keep)
            .arg_f32(constants.keep_decayed)
            .launch_on(device);
    }
}

/// The fields of each chunk of a range.
fn chunk_fields(range: &UpdateRange) -> impl Iterator<Item = [u32; CHUNK_FIELDS]> {
    let UpdateRange { range, decays } = range.clone();
    range.clone().step_by(MAX_CHUNK_LEN).map(move |start| {
        let len = MAX_CHUNK_LEN.min(range.end - start);
        [start as u32, len as u32, decays.into()]
    })
}

pub(super) fn add_scalar(values: &mut DeviceViewMut<'_>, number: f32) {
    let device = values.device();
    let count = values.len();
    KernelLaunch::new("optimizer_add")
        .with_thread_per_item(count)
        .arg_output(values)
        .arg_u32(count)
        .arg_f32(number)
        .launch_on(device);
}

pub(super) fn clamp_values(values: &mut DeviceViewMut<'_>, low: f32, high: f32) {
    let device = values.device();
    let count = values.len();
    KernelLaunch::new("optimizer_clamp")
        .with_thread_per_item(count)
        .arg_output(values)
        .arg_bf16_output(values)
        .arg_u32(count)
        .arg_f32(low)
        .arg_f32(high)
        .launch_on(device);
}
