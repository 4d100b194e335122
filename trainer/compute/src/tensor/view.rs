//! Borrowed parts of arrays.

use std::borrow::Cow;
use std::ops::Range;

use super::mixed;
use crate::device::{Span, SpanMut};

/// Numbers to be read.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// In this machine's memory.
    Host(&'a [f32]),
    /// In a device's memory.
    Device(Span<'a>),
}

/// Numbers to be written.
#[derive(Debug)]
pub enum ViewMut<'a> {
    /// In this machine's memory.
    Host(&'a mut [f32]),
    /// In a device's memory.
    Device(SpanMut<'a>),
}

impl<'a> View<'a> {
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
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&values[range]),
            Self::Device(span) => Self::Device(span.part(range)),
        }
    }

    /// The first so many.
    pub fn first(self, count: usize) -> Self {
        self.part(0..count)
    }

    /// The first so many, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (self.part(0..at), self.part(at..self.len()))
    }

    /// The numbers of an operation that this machine computes.
    pub fn host(self) -> &'a [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => mixed(),
        }
    }

    /// The numbers of an operation that a device computes.
    pub fn device(self) -> Span<'a> {
        match self {
            Self::Host(_) => mixed(),
            Self::Device(span) => span,
        }
    }

    /// The numbers in this machine's memory: a device is waited for.
    pub fn read(self) -> Cow<'a, [f32]> {
        match self {
            Self::Host(values) => Cow::Borrowed(values),
            Self::Device(span) => Cow::Owned(span.download()),
        }
    }
}

impl<'a> ViewMut<'a> {
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
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        match self {
            Self::Host(values) => ViewMut::Host(values),
            Self::Device(span) => ViewMut::Device(span.reborrow()),
        }
    }

    /// The same numbers, to be read.
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Host(values) => View::Host(values),
            Self::Device(span) => View::Device(span.span()),
        }
    }

    /// The numbers of an operation that this machine computes.
    pub fn host(self) -> &'a mut [f32] {
        match self {
            Self::Host(values) => values,
            Self::Device(_) => mixed(),
        }
    }

    /// The numbers of an operation that a device computes.
    pub fn device(self) -> SpanMut<'a> {
        match self {
            Self::Host(_) => mixed(),
            Self::Device(span) => span,
        }
    }

    /// Some of them.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&mut values[range]),
            Self::Device(span) => Self::Device(span.part(range)),
        }
    }

    /// The first so many.
    pub fn first(self, count: usize) -> Self {
        self.part(0..count)
    }

    /// The first so many, and the others.
    pub fn split_at(self, at: usize) -> (ViewMut<'a>, ViewMut<'a>) {
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
    pub fn clear(&mut self) {
        match self {
            Self::Host(values) => {
                use rayon::prelude::*;
                values
                    .par_chunks_mut(1 << 16)
                    .for_each(|chunk| chunk.fill(0.0));
            }
            Self::Device(span) => span.clear(),
        }
    }

    /// Takes other numbers, from either memory.
    pub fn copy_from(&mut self, other: View<'_>) {
        assert_eq!(
            self.len(),
            other.len(),
            "copies are as long as what they are of"
        );

        match (self, other) {
            (Self::Host(to), View::Host(from)) => to.copy_from_slice(from),
            (Self::Host(to), View::Device(from)) => to.copy_from_slice(&from.download()),
            (Self::Device(to), View::Host(from)) => to.upload(from),
            (Self::Device(to), View::Device(from)) => to.copy_from(from),
        }
    }

    /// Writes every number anew, in this machine's memory first.
    pub fn write<T>(&mut self, make: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => make(values),
            Self::Device(span) => {
                let mut values = vec![0.0; span.len()];
                let result = make(&mut values);
                span.upload(&values);
                result
            }
        }
    }

    /// Changes numbers in this machine's memory, wherever they are: a device is waited for.
    pub fn edit<T>(&mut self, change: impl FnOnce(&mut [f32]) -> T) -> T {
        match self {
            Self::Host(values) => change(values),
            Self::Device(span) => {
                let mut values = span.span().download();
                let result = change(&mut values);
                span.upload(&values);
                result
            }
        }
    }
}

impl<'a> From<&'a [f32]> for View<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a mut [f32]> for ViewMut<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a Vec<f32>> for View<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<&'a mut Vec<f32>> for ViewMut<'a> {
    fn from(values: &'a mut Vec<f32>) -> Self {
        Self::Host(values)
    }
}

impl<'a> From<Span<'a>> for View<'a> {
    fn from(span: Span<'a>) -> Self {
        Self::Device(span)
    }
}
