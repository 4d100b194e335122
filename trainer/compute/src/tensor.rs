//! Tensors in host memory or in a device's memory. Operations take views of them and dispatch on where they are.

mod index_view;
mod memory;
mod view;

pub use index_view::IndexView;
pub use memory::Memory;
pub use view::{TensorView, TensorViewMut};

use std::borrow::Cow;
use std::ops::Range;

use crate::device::DeviceBuffer;

/// A flat array in host memory or in a device's memory.
///
/// # Guarantees
/// Its length is fixed. On a device it may have a copy rounded to bfloat16, which products read: every write
/// through this type or an operation updates both.
///
/// ```
/// use cnclip_compute::tensor::{Memory, TensorView};
///
/// let mut tensor = Memory::Host.alloc_activations(3);
/// tensor.slice_mut(1..3).copy_from(TensorView::Host(&[1.0, 2.0]));
/// assert_eq!(*tensor.to_host(), [0.0, 1.0, 2.0]);
/// ```
#[derive(Debug)]
pub enum Tensor {
    /// In host memory, in fp32.
    Host(Vec<f32>),
    /// In a device's memory.
    Device(DeviceBuffer),
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(buffer) => buffer.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements.
    pub fn view(&self) -> TensorView<'_> {
        match self {
            Self::Host(values) => TensorView::Host(values),
            Self::Device(buffer) => TensorView::Device(buffer.as_view()),
        }
    }

    /// All elements, to be written.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        match self {
            Self::Host(values) => TensorViewMut::Host(values),
            Self::Device(buffer) => TensorViewMut::Device(buffer.as_view_mut()),
        }
    }

    /// A range of the elements.
    pub fn slice(&self, range: Range<usize>) -> TensorView<'_> {
        self.view().slice(range)
    }

    /// A range of the elements, to be written.
    pub fn slice_mut(&mut self, range: Range<usize>) -> TensorViewMut<'_> {
        self.view_mut().slice(range)
    }

    /// The first `count` elements.
    pub fn first_n(&self, count: usize) -> TensorView<'_> {
        self.slice(0..count)
    }

    /// The first `count` elements, to be written.
    pub fn first_n_mut(&mut self, count: usize) -> TensorViewMut<'_> {
        self.slice_mut(0..count)
    }

    /// The elements in host memory. Waits for a device.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.view().to_host()
    }

    /// Copies from another tensor of the same length, in either memory.
    pub fn copy_from(&mut self, other: TensorView<'_>) {
        self.view_mut().copy_from(other);
    }

    /// Changes the elements in host memory, and copies them back if they are on a device. Waits for it.
    pub fn update_on_host<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        self.view_mut().update_on_host(change)
    }
}

/// Panics because the tensors of one operation are in different memories.
#[expect(clippy::panic, reason = "a bug in the caller")]
pub fn panic_mixed_memories() -> ! {
    panic!("the tensors of one operation are in different memories")
}

impl From<Vec<f32>> for Tensor {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values)
    }
}

#[cfg(test)]
mod tests;
