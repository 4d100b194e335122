//! What a device has to know of a batch besides its values: where sequences begin, and indices such as
//! token ids.

use cnclip_compute::device::DeviceBuffer;
use cnclip_compute::ops::sequences::{DeviceSequenceView, Sequences};
use cnclip_compute::tensor::{IndexView, Memory};

/// Buffers for it on a device; none in host memory, where the caller's slices are read in place.
#[derive(Debug)]
pub(super) struct SequenceBuffers {
    on_device: Option<DeviceSequenceBuffers>,
}

#[derive(Debug)]
struct DeviceSequenceBuffers {
    offsets: DeviceBuffer,
    indices: DeviceBuffer,
    /// Offsets as a device reads them.
    offsets_u32: Vec<u32>,
    /// Whether any index is 0: among token ids, padding.
    has_zero: bool,
}

impl SequenceBuffers {
    /// Memory for at most `sequences` sequences and `indices` indices.
    pub(super) fn new(memory: &Memory, sequences: usize, indices: usize) -> Self {
        let buffers = memory
            .alloc_u32(1 + sequences)
            .zip(memory.alloc_u32(indices));

        let on_device = buffers.map(|(offsets, indices)| DeviceSequenceBuffers {
            offsets,
            indices,
            offsets_u32: vec![0; 1 + sequences],
            has_zero: false,
        });

        Self { on_device }
    }

    /// Copies the offsets and indices of a batch to the device.
    pub(super) fn upload_batch(&mut self, offsets: &[usize], indices: &[u32]) {
        let Some(buffers) = &mut self.on_device else {
            return;
        };

        let offsets_u32 = &mut buffers.offsets_u32[..offsets.len()];
        for (target, &offset) in offsets_u32.iter_mut().zip(offsets) {
            *target = offset as u32;
        }

        buffers.offsets.upload_u32(offsets_u32);
        buffers.indices.upload_u32(indices);
        buffers.has_zero = indices.contains(&0);
    }

    /// The same indices, known on the device.
    pub(super) fn bind_indices<'a>(&'a self, indices: &'a [u32]) -> IndexView<'a> {
        let device_view =
            |buffers: &'a DeviceSequenceBuffers| buffers.indices.as_view().first_n(indices.len());
        IndexView::from(indices).with_device_view(self.on_device.as_ref().map(device_view))
    }

    /// The same sequences, known on the device. If they have token ids, those are the uploaded indices.
    pub(super) fn bind_sequences<'a>(&'a self, sequences: Sequences<'a>) -> Sequences<'a> {
        let Some(buffers) = &self.on_device else {
            return sequences;
        };

        let offset_count = 1 + sequences.sequence_count();
        let id_count = sequences.token_ids().len();
        // Without ids a kernel skips the check for padding.
        let has_padding = id_count > 0 && buffers.has_zero;
        sequences.with_device(DeviceSequenceView {
            offsets: buffers.offsets.as_view().first_n(offset_count),
            token_ids: has_padding.then(|| buffers.indices.as_view().first_n(id_count)),
        })
    }
}
