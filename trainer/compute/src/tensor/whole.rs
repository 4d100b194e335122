//! Whole numbers that an operation reads: ids, places, patches.

use super::mixed;
use crate::device::Span;

/// Whole numbers, which this machine always knows, and a device where it is the one that computes.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    numbers: &'a [u32],
    place: Option<Span<'a>>,
}

impl<'a> Whole<'a> {
    /// The same numbers, known on a device, too, if it is given where.
    pub fn on(self, place: Option<Span<'a>>) -> Self {
        Self { place, ..self }
    }

    /// The numbers of an operation that this machine computes.
    pub fn host(self) -> &'a [u32] {
        self.numbers
    }

    /// The numbers of an operation that a device computes.
    pub fn device(self) -> Span<'a> {
        self.place.unwrap_or_else(|| mixed())
    }
}

impl<'a> From<&'a [u32]> for Whole<'a> {
    fn from(numbers: &'a [u32]) -> Self {
        Self {
            numbers,
            place: None,
        }
    }
}
