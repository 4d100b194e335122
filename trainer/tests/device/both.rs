//! The same arrays on this machine and on the device, for operations that are done on both.

use cnclip_compute::device::{Buffer, Format};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut, Whole};

use crate::support::{assert_near, memory, numbers, wholes};

/// Where an operation is done.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Here,
    Device,
}

/// Here, then on the device.
pub(crate) const PLACES: [Place; 2] = [Place::Here, Place::Device];

/// The same numbers in both memories.
pub(crate) struct Both {
    here: Array,
    device: Array,
    format: Format,
}

impl Both {
    /// Activations.
    pub(crate) fn array(len: usize, seed: u64, format: Format) -> Self {
        Self::new(
            numbers(len, seed, format),
            memory(format).array(len),
            format,
        )
    }

    /// Numbers that are fp32 in any format; they are compared as numbers of that.
    pub(crate) fn exact(len: usize, seed: u64, format: Format) -> Self {
        Self::new(
            numbers(len, seed, Format::F32),
            memory(format).exact(len),
            format,
        )
    }

    /// Weights.
    pub(crate) fn weights(len: usize, seed: u64, format: Format) -> Self {
        Self::new(
            numbers(len, seed, Format::F32),
            memory(format).weights(len),
            format,
        )
    }

    fn new(values: Vec<f32>, mut device: Array, format: Format) -> Self {
        device.copy_from(View::Host(&values));
        let mut here = Memory::Host.array(values.len());
        here.copy_from(View::Host(&values));
        Self {
            here,
            device,
            format,
        }
    }

    pub(crate) fn view(&self, place: Place) -> View<'_> {
        if place == Place::Here {
            self.here.view()
        } else {
            self.device.view()
        }
    }

    pub(crate) fn view_mut(&mut self, place: Place) -> ViewMut<'_> {
        if place == Place::Here {
            self.here.view_mut()
        } else {
            self.device.view_mut()
        }
    }

    /// Fails unless both are as near as so many roundings allow.
    pub(crate) fn agree(&self, what: &str, roundings: f32) {
        let Array::Device(device) = &self.device else {
            panic!("it is on a device")
        };
        assert_near(what, device, &self.here.read(), self.format, roundings);
    }

    /// The numbers on the device.
    pub(crate) fn on_device(&self) -> Vec<f32> {
        self.device.read().into_owned()
    }

    /// The numbers here.
    pub(crate) fn here(&self) -> Vec<f32> {
        self.here.read().into_owned()
    }
}

/// The same whole numbers in both memories.
pub(crate) struct Wholes(pub(crate) Vec<u32>, Buffer);

impl Wholes {
    pub(crate) fn new(numbers: Vec<u32>) -> Self {
        let buffer = wholes(&numbers);
        Self(numbers, buffer)
    }

    pub(crate) fn view(&self, place: Place) -> Whole<'_> {
        Whole::from(self.0.as_slice()).on((place == Place::Device).then(|| self.1.span()))
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.1
    }
}
