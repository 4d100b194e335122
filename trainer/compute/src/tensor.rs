//! Numbers where they are computed with: in the memory of this machine, or in that of a device.
//! Operations take views and do not ask who owns them.

mod memory;
mod view;
mod whole;

pub use memory::Memory;
pub use view::{View, ViewMut};
pub use whole::Whole;

use std::borrow::Cow;
use std::ops::Range;

use crate::device::Buffer;

/// Numbers in one of both memories.
///
/// # Guarantees
/// It keeps its length. On a device it may hold its numbers a second time, rounded to bfloat16 for
/// products: whoever writes the numbers through this type or through an operation writes both.
#[derive(Debug)]
pub enum Array {
    /// In this machine's memory, in fp32.
    Host(Vec<f32>),
    /// In a device's memory.
    Device(Buffer),
}

impl Array {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(buffer) => buffer.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Host(values) => View::Host(values),
            Self::Device(buffer) => View::Device(buffer.span()),
        }
    }

    /// All of them, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        match self {
            Self::Host(values) => ViewMut::Host(values),
            Self::Device(buffer) => ViewMut::Device(buffer.span_mut()),
        }
    }

    /// Some of them.
    pub fn part(&self, range: Range<usize>) -> View<'_> {
        self.view().part(range)
    }

    /// Some of them, to be written.
    pub fn part_mut(&mut self, range: Range<usize>) -> ViewMut<'_> {
        self.view_mut().part(range)
    }

    /// The first so many.
    pub fn first(&self, count: usize) -> View<'_> {
        self.part(0..count)
    }

    /// The first so many, to be written.
    pub fn first_mut(&mut self, count: usize) -> ViewMut<'_> {
        self.part_mut(0..count)
    }

    /// The numbers in this machine's memory: a device is waited for.
    pub fn read(&self) -> Cow<'_, [f32]> {
        self.view().read()
    }

    /// Takes the numbers of another array of the same length.
    pub fn copy_from(&mut self, other: View<'_>) {
        self.view_mut().copy_from(other);
    }

    /// Changes numbers in this machine's memory, wherever they are: a device is waited for.
    pub fn edit<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        self.view_mut().edit(change)
    }
}

/// Ends an operation whose arrays lie in different memories.
#[expect(clippy::panic, reason = "a fault of ours")]
pub fn mixed() -> ! {
    panic!("arrays of one operation lie in different memories")
}

impl From<Vec<f32>> for Array {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values)
    }
}

#[cfg(test)]
mod tests;
