//! Numbers where they are computed with: in the memory of this machine, or in that of a device.
//! Operations take views and do not ask who owns them.

mod index_view;
mod memory;
mod view;

pub use index_view::IndexView;
pub use memory::Memory;
pub use view::{TensorView, TensorViewMut};

use std::borrow::Cow;
use std::ops::Range;

use crate::device::DeviceBuffer;

/// Numbers in one of both memories.
///
/// # Guarantees
/// It keeps its length. On a device it may hold its numbers a second time, rounded to bfloat16 for
/// products: whoever writes the numbers through this type or through an operation writes both.
#[derive(Debug)]
pub enum Tensor {
    /// In this machine's memory, in fp32.
    Host(Vec<f32>),
    /// In a device's memory.
    Device(DeviceBuffer),
}

impl Tensor {
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
    pub fn view(&self) -> TensorView<'_> {
        match self {
            Self::Host(values) => TensorView::Host(values),
            Self::Device(buffer) => TensorView::Device(buffer.as_view()),
        }
    }

    /// All of them, to be written.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        match self {
            Self::Host(values) => TensorViewMut::Host(values),
            Self::Device(buffer) => TensorViewMut::Device(buffer.as_view_mut()),
        }
    }

    /// Some of them.
    pub fn slice(&self, range: Range<usize>) -> TensorView<'_> {
        self.view().slice(range)
    }

    /// Some of them, to be written.
    pub fn slice_mut(&mut self, range: Range<usize>) -> TensorViewMut<'_> {
        self.view_mut().slice(range)
    }

    /// The first so many.
    pub fn first_n(&self, count: usize) -> TensorView<'_> {
        self.slice(0..count)
    }

    /// The first so many, to be written.
    pub fn first_n_mut(&mut self, count: usize) -> TensorViewMut<'_> {
        self.slice_mut(0..count)
    }

    /// The numbers in this machine's memory: a device is waited for.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.view().to_host()
    }

    /// Takes the numbers of another array of the same length.
    pub fn copy_from(&mut self, other: TensorView<'_>) {
        self.view_mut().copy_from(other);
    }

    /// Changes numbers in this machine's memory, wherever they are: a device is waited for.
    pub fn update_on_host<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        self.view_mut().update_on_host(change)
    }
}

/// Ends an operation whose arrays lie in different memories.
#[expect(clippy::panic, reason = "a fault of ours")]
pub fn panic_mixed_memories() -> ! {
    panic!("arrays of one operation lie in different memories")
}

impl From<Vec<f32>> for Tensor {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values)
    }
}

#[cfg(test)]
mod tests;
