//! Views of tensors.

use std::borrow::Cow;
use std::ops::Range;

use super::panic_mixed_memories;
use crate::device::{DeviceView, DeviceViewMut};

/// A view of a tensor, to be read.
///
/// ```
/// use cnclip_compute::tensor::TensorView;
///
/// let values = vec![1.0, 2.0, 3.0];
/// let view = TensorView::from(&values);
/// assert_eq!(view.slice(1..3).expect_host(), [2.0, 3.0]);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum TensorView<'a> {
    /// In host memory.
    Host(&'a [f32]),
    /// In a device's memory.
    Device(DeviceView<'a>),
}

/// A view of a tensor, to be written.
///
/// ```
/// use cnclip_compute::tensor::TensorViewMut;
///
/// let mut values = vec![1.0; 3];
/// let (mut first, _) = TensorViewMut::from(&mut values).split_at(1);
/// first.fill_zeros();
/// assert_eq!(values, [0.0, 1.0, 1.0]);
/// ```
#[derive(Debug)]
pub enum TensorViewMut<'a> {
    /// In host memory.
    Host(&'a mut [f32]),
    /// In a device's memory.
    Device(DeviceViewMut<'a>),
}

impl<'a> TensorView<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(span) => span.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A range of the elements.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&values[range]),
            Self::Device(span) => Self::Device(span.slice(range)),
        }
    }

    /// The first `count` elements.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first `at` elements, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (self.slice(0..at), self.slice(at..self.len()))
    }

    /// The elements, which must be in host memory.
    pub fn expect_host(self) -> &'a [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => panic_mixed_memories(),
        }
    }

    /// The elements, which must be in a device's memory.
    pub fn expect_device(self) -> DeviceView<'a> {
        match self {
            Self::Host(_) => panic_mixed_memories(),
            Self::Device(span) => span,
        }
    }

    /// The elements in host memory. Waits for a device.
    pub fn to_host(self) -> Cow<'a, [f32]> {
        match self {
            Self::Host(values) => Cow::Borrowed(values),
            Self::Device(span) => Cow::Owned(span.to_host()),
        }
    }
}

impl<'a> TensorViewMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(span) => span.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same view with a shorter lifetime.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        match self {
            Self::Host(values) => TensorViewMut::Host(values),
            Self::Device(span) => TensorViewMut::Device(span.reborrow()),
        }
    }

    /// The same elements, to be read.
    pub fn as_view(&self) -> TensorView<'_> {
        match self {
            Self::Host(values) => TensorView::Host(values),
            Self::Device(span) => TensorView::Device(span.as_view()),
        }
    }

    /// The elements, which must be in host memory.
    pub fn expect_host(self) -> &'a mut [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => panic_mixed_memories(),
        }
    }

    /// The elements, which must be in a device's memory.
    pub fn expect_device(self) -> DeviceViewMut<'a> {
        match self {
            Self::Host(_) => panic_mixed_memories(),
            Self::Device(span) => span,
        }
    }

    /// A range of the elements.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&mut values[range]),
            Self::Device(span) => Self::Device(span.slice(range)),
        }
    }

    /// The first `count` elements.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first `at` elements, and the others.
    pub fn split_at(self, at: usize) -> (TensorViewMut<'a>, TensorViewMut<'a>) {
        match self {
            Self::Host(values) => {
                let (left, right) = values.split_at_mut(at);
                (Self::Host(left), Self::Host(right))
            }
            Self::Device(span) => {
                let (left, right) = span.split_at(at);
                (Self::Device(left), Self::Device(right))
            }
        }
    }

    /// Sets every element to zero.
    pub fn fill_zeros(&mut self) {
        match self {
            Self::Host(values) => {
                use rayon::prelude::*;
                values
                    // 256 KiB a task: gradients of hundreds of megabytes are cleared by all cores.
                    .par_chunks_mut(1 << 16)
                    .for_each(|chunk| chunk.fill(0.0));
            }
            Self::Device(span) => span.fill_zeros(),
        }
    }

    /// Copies from another view of the same length, in either memory.
    pub fn copy_from(&mut self, other: TensorView<'_>) {
        assert_eq!(
            self.len(),
            other.len(),
            "source and target of a copy differ in length"
        );

        match (self, other) {
            (Self::Host(to), TensorView::Host(from)) => to.copy_from_slice(from),
            // Copies between host and device convert between fp32 and the device's number format.
            (Self::Host(to), TensorView::Device(from)) => to.copy_from_slice(&from.to_host()),
            (Self::Device(to), TensorView::Host(from)) => to.copy_from_host(from),
            (Self::Device(to), TensorView::Device(from)) => to.copy_from(from),
        }
    }

    /// Writes every element in host memory, and copies them to a device if the view is of one.
    pub fn overwrite_with<T>(&mut self, make: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => make(values),
            Self::Device(span) => {
                // No download first: `make` overwrites every element.
                let mut values = vec![0.0; span.len()];
                let result = make(&mut values);
                span.copy_from_host(&values);
                result
            }
        }
    }

    /// Changes the elements in host memory, and copies them back if they are on a device. Waits for it.
    pub fn update_on_host<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => change(values),
            Self::Device(span) => {
                // Elements that `change` leaves alone keep their bits: bfloat16 to fp32 and back is
                // exact.
                let mut values = span.as_view().to_host();
                let result = change(&mut values);
                span.copy_from_host(&values);
                result
            }
        }
    }
}

impl<'a> From<&'a [f32]> for TensorView<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a mut [f32]> for TensorViewMut<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a Vec<f32>> for TensorView<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a mut Vec<f32>> for TensorViewMut<'a> {
    fn from(values: &'a mut Vec<f32>) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<DeviceView<'a>> for TensorView<'a> {
    fn from(span: DeviceView<'a>) -> Self {
        Self::Device(span)
    }
}
