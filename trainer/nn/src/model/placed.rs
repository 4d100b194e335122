//! What a tower tells the device that it computes on about a batch: where sequences begin, and whole
//! numbers such as ids.

use cnclip_compute::device::Buffer;
use cnclip_compute::ops::rows::{Places, Sequences};
use cnclip_compute::tensor::{Memory, Whole};

/// Room for it on a device; nothing where this machine computes, which knows it already.
#[derive(Debug)]
pub(super) struct Placed(Option<Room>);

#[derive(Debug)]
struct Room {
    offsets: Buffer,
    numbers: Buffer,
    /// Offsets as a device has them.
    short: Vec<u32>,
    /// Whether any number is 0: of ids, that of padding.
    zero: bool,
}

impl Placed {
    /// Room for so many sequences and numbers.
    pub(super) fn new(memory: &Memory, sequences: usize, numbers: usize) -> Self {
        let offsets = memory.whole(1 + sequences).zip(memory.whole(numbers));
        Self(offsets.map(|(offsets, numbers)| Room {
            offsets,
            numbers,
            short: vec![0; 1 + sequences],
            zero: false,
        }))
    }

    /// Tells the device.
    pub(super) fn take(&mut self, offsets: &[usize], numbers: &[u32]) {
        if let Some(room) = &mut self.0 {
            let short = &mut room.short[..offsets.len()];
            short
                .iter_mut()
                .zip(offsets)
                .for_each(|(short, offset)| *short = *offset as u32);

            room.offsets.take_whole(short);
            room.numbers.take_whole(numbers);
            room.zero = numbers.contains(&0);
        }
    }

    /// The same numbers, known on the device.
    pub(super) fn numbers<'a>(&'a self, numbers: &'a [u32]) -> Whole<'a> {
        let span = |room: &'a Room| room.numbers.span().first(numbers.len());
        Whole::from(numbers).on(self.0.as_ref().map(span))
    }

    /// The same sequences, known on the device. If they have ids, those are its numbers; it needs them
    /// where there is padding.
    pub(super) fn on<'a>(&'a self, sequences: Sequences<'a>) -> Sequences<'a> {
        let Some(room) = &self.0 else {
            return sequences;
        };

        let ids = sequences.ids().len();
        sequences.on(Places {
            offsets: room.offsets.span().first(1 + sequences.count()),
            ids: (ids > 0 && room.zero).then(|| room.numbers.span().first(ids)),
        })
    }
}
