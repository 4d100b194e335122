//! What a tower tells the device that it computes on about a batch: where sequences begin, and whole
//! numbers such as ids.

use cnclip_compute::device::DeviceBuffer;
use cnclip_compute::ops::sequences::{DeviceSequenceView, Sequences};
use cnclip_compute::tensor::{IndexView, Memory};

/// Room for it on a device; nothing where this machine computes, which knows it already.
#[derive(Debug)]
pub(super) struct SequenceBuffers(Option<DeviceSequenceBuffers>);

#[derive(Debug)]
struct DeviceSequenceBuffers {
    offsets: DeviceBuffer,
    indices: DeviceBuffer,
    /// Offsets as a device has them.
    offsets_u32: Vec<u32>,
    /// Whether any number is 0: of ids, that of padding.
    has_zero: bool,
}

impl SequenceBuffers {
    /// Room for so many sequences and numbers.
    pub(super) fn new(memory: &Memory, sequences: usize, numbers: usize) -> Self {
        let offsets = memory
            .alloc_u32(1 + sequences)
            .zip(memory.alloc_u32(numbers));
        Self(offsets.map(|(offsets, numbers)| DeviceSequenceBuffers {
            offsets,
            indices: numbers,
            offsets_u32: vec![0; 1 + sequences],
            has_zero: false,
        }))
    }

    /// Tells the device.
    pub(super) fn upload_batch(&mut self, offsets: &[usize], numbers: &[u32]) {
        if let Some(room) = &mut self.0 {
            let short = &mut room.offsets_u32[..offsets.len()];
            short
                .iter_mut()
                .zip(offsets)
                .for_each(|(short, offset)| *short = *offset as u32);

            room.offsets.upload_u32(short);
            room.indices.upload_u32(numbers);
            room.has_zero = numbers.contains(&0);
        }
    }

    /// The same numbers, known on the device.
    pub(super) fn bind_indices<'a>(&'a self, numbers: &'a [u32]) -> IndexView<'a> {
        let span = |room: &'a DeviceSequenceBuffers| room.indices.as_view().first_n(numbers.len());
        IndexView::from(numbers).with_device_view(self.0.as_ref().map(span))
    }

    /// The same sequences, known on the device. If they have ids, those are its numbers; it needs them
    /// where there is padding.
    pub(super) fn bind_sequences<'a>(&'a self, sequences: Sequences<'a>) -> Sequences<'a> {
        let Some(room) = &self.0 else {
            return sequences;
        };

        let ids = sequences.token_ids().len();
        sequences.with_device(DeviceSequenceView {
            offsets: room
                .offsets
                .as_view()
                .first_n(1 + sequences.sequence_count()),
            token_ids: (ids > 0 && room.has_zero).then(|| room.indices.as_view().first_n(ids)),
        })
    }
}
