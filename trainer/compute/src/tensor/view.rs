//! Borrowed parts of arrays.

use std::borrow::Cow;
use std::ops::Range;

use super::panic_mixed_memories;
use crate::device::{DeviceView, DeviceViewMut};

/// Numbers to be read.
#[derive(Clone, Copy, Debug)]
pub enum TensorView<'a> {
    /// In this machine's memory.
    Host(&'a [f32]),
    /// In a device's memory.
    Device(DeviceView<'a>),
}

/// Numbers to be written.
#[derive(Debug)]
pub enum TensorViewMut<'a> {
    /// In this machine's memory.
    Host(&'a mut [f32]),
    /// In a device's memory.
    Device(DeviceViewMut<'a>),
}

impl<'a> TensorView<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(span) => span.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&values[range]),
            Self::Device(span) => Self::Device(span.slice(range)),
        }
    }

    /// The first so many.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first so many, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (self.slice(0..at), self.slice(at..self.len()))
    }

    /// The numbers of an operation that this machine computes.
    pub fn expect_host(self) -> &'a [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => panic_mixed_memories(),
        }
    }

    /// The numbers of an operation that a device computes.
    pub fn expect_device(self) -> DeviceView<'a> {
        match self {
            Self::Host(_) => panic_mixed_memories(),
            Self::Device(span) => span,
        }
    }

    /// The numbers in this machine's memory: a device is waited for.
    pub fn to_host(self) -> Cow<'a, [f32]> {
        match self {
            Self::Host(values) => Cow::Borrowed(values),
            Self::Device(span) => Cow::Owned(span.to_host()),
        }
    }
}

impl<'a> TensorViewMut<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(span) => span.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same numbers for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        match self {
            Self::Host(values) => TensorViewMut::Host(values),
            Self::Device(span) => TensorViewMut::Device(span.reborrow()),
        }
    }

    /// The same numbers, to be read.
    pub fn as_view(&self) -> TensorView<'_> {
        match self {
            Self::Host(values) => TensorView::Host(values),
            Self::Device(span) => TensorView::Device(span.as_view()),
        }
    }

    /// The numbers of an operation that this machine computes.
    pub fn expect_host(self) -> &'a mut [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => panic_mixed_memories(),
        }
    }

    /// The numbers of an operation that a device computes.
    pub fn expect_device(self) -> DeviceViewMut<'a> {
        match self {
            Self::Host(_) => panic_mixed_memories(),
            Self::Device(span) => span,
        }
    }

    /// Some of them.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&mut values[range]),
            Self::Device(span) => Self::Device(span.slice(range)),
        }
    }

    /// The first so many.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first so many, and the others.
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

    /// Sets every number to zero.
    pub fn fill_zeros(&mut self) {
        match self {
            Self::Host(values) => {
                use rayon::prelude::*;
                values
                    .par_chunks_mut(1 << 16)
                    .for_each(|chunk| chunk.fill(0.0));
            }
            Self::Device(span) => span.fill_zeros(),
        }
    }

    /// Takes other numbers, from either memory.
    pub fn copy_from(&mut self, other: TensorView<'_>) {
        assert_eq!(
            self.len(),
            other.len(),
            "copies are as long as what they are of"
        );

        match (self, other) {
            (Self::Host(to), TensorView::Host(from)) => to.copy_from_slice(from),
            (Self::Host(to), TensorView::Device(from)) => to.copy_from_slice(&from.to_host()),
            (Self::Device(to), TensorView::Host(from)) => to.copy_from_host(from),
            (Self::Device(to), TensorView::Device(from)) => to.copy_from(from),
        }
    }

    /// Writes every number anew, in this machine's memory first.
    pub fn overwrite_with<T>(&mut self, make: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => make(values),
            Self::Device(span) => {
                let mut values = vec![0.0; span.len()];
                let result = make(&mut values);
                span.copy_from_host(&values);
                result
            }
        }
    }

    /// Changes numbers in this machine's memory, wherever they are: a device is waited for.
    pub fn update_on_host<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => change(values),
            Self::Device(span) => {
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
