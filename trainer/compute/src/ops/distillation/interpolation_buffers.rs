//! The taps of an interpolation on a device.

use super::gpu::DeviceInterpolation;
use super::interpolation::LinearInterpolation;
use crate::device::DeviceBuffer;
use crate::tensor::{Memory, Tensor, TensorView};

/// The outputs of an interpolation, found from either side: a backward pass that looks up the outputs of
/// each input needs no atomic additions, whose order would differ from run to run.
#[derive(Debug)]
pub(super) struct InterpolationBuffers {
    /// The left neighbour of each output.
    left_neighbors: DeviceBuffer,
    /// The first output to the right of each input.
    neighbor_starts: DeviceBuffer,
    right_weights: Tensor,
}

impl InterpolationBuffers {
    /// None for host memory.
    pub(super) fn new(memory: &Memory, interpolation: &LinearInterpolation) -> Option<Self> {
        let LinearInterpolation { width, taps } = interpolation;
        let left_neighbors: Vec<u32> = taps.iter().map(|tap| tap.left as u32).collect();
        let right_weights: Vec<f32> = taps.iter().map(|tap| tap.right_weight).collect();
        // Left neighbours are sorted.
        let first_output = |input: usize| {
            left_neighbors.partition_point(|&neighbor| (neighbor as usize) < input) as u32
        };

        let neighbor_starts: Vec<u32> = (0..=*width).map(first_output).collect();
        let mut buffers = Self {
            left_neighbors: memory.alloc_u32(left_neighbors.len())?,
            neighbor_starts: memory.alloc_u32(neighbor_starts.len())?,
            right_weights: memory.alloc_f32(right_weights.len()),
        };

        buffers.left_neighbors.upload_u32(&left_neighbors);
        buffers.neighbor_starts.upload_u32(&neighbor_starts);
        buffers
            .right_weights
            .copy_from(TensorView::Host(&right_weights));
        Some(buffers)
    }

    pub(super) fn as_device_views(&self) -> DeviceInterpolation<'_> {
        DeviceInterpolation {
            left_neighbors: self.left_neighbors.as_view(),
            neighbor_starts: self.neighbor_starts.as_view(),
            right_weights: self.right_weights.view().expect_device(),
        }
    }
}
