//! How vectors are stretched, in a device's memory.

use super::LinearInterpolation;
use cnclip_compute::device::DeviceBuffer;
use cnclip_compute::ops::distillation::gpu as ops;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};

/// The places of stretched vectors, found from either side.
#[derive(Debug)]
pub(super) struct InterpolationBuffers {
    firsts: DeviceBuffer,
    begins: DeviceBuffer,
    weights: Tensor,
}

impl InterpolationBuffers {
    /// None for this machine's memory.
    pub(super) fn new(memory: &Memory, stretch: &LinearInterpolation) -> Option<Self> {
        let LinearInterpolation {
            width,
            taps: places,
        } = stretch;
        let firsts: Vec<u32> = places.iter().map(|(first, ..)| *first as u32).collect();
        let shares: Vec<f32> = places.iter().map(|(.., share)| *share).collect();
        // Left neighbours come in order.
        let begin = |at: usize| firsts.partition_point(|&first| (first as usize) < at) as u32;
        let begins: Vec<u32> = (0..=*width).map(begin).collect();
        let mut held = Self {
            firsts: memory.alloc_u32(firsts.len())?,
            begins: memory.alloc_u32(begins.len())?,
            weights: memory.alloc_f32(shares.len()),
        };

        held.firsts.upload_u32(&firsts);
        held.begins.upload_u32(&begins);
        held.weights.copy_from(TensorView::Host(&shares));
        Some(held)
    }

    pub(super) fn as_device_op(&self) -> ops::LinearResize<'_> {
        let firsts = self.firsts.as_view();
        let begins = self.begins.as_view();
        ops::LinearResize {
            left_neighbors: firsts,
            neighbor_starts: begins,
            right_weights: self.weights.view().expect_device(),
        }
    }
}
