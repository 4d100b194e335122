//! The same arrays on this machine and on the device, for operations that are done on both.

use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::tensor::{IndexView, Memory, Tensor, TensorView, TensorViewMut};

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
    here: Tensor,
    device: Tensor,
    format: DType,
}

impl Both {
    /// Activations.
    pub(crate) fn array(len: usize, seed: u64, format: DType) -> Self {
        Self::new(
            numbers(len, seed, format),
            memory(format).alloc_activations(len),
            format,
        )
    }

    /// Numbers that are fp32 in any format; they are compared as numbers of that.
    pub(crate) fn exact(len: usize, seed: u64, format: DType) -> Self {
        Self::new(
            numbers(len, seed, DType::F32),
            memory(format).alloc_f32(len),
            format,
        )
    }

    /// Weights.
    pub(crate) fn weights(len: usize, seed: u64, format: DType) -> Self {
        Self::new(
            numbers(len, seed, DType::F32),
            memory(format).alloc_weights(len),
            format,
        )
    }

    fn new(values: Vec<f32>, mut device: Tensor, format: DType) -> Self {
        device.copy_from(TensorView::Host(&values));
        let mut here = Memory::Host.alloc_activations(values.len());
        here.copy_from(TensorView::Host(&values));
        Self {
            here,
            device,
            format,
        }
    }

    pub(crate) fn view(&self, place: Place) -> TensorView<'_> {
        if place == Place::Here {
            self.here.view()
        } else {
            self.device.view()
        }
    }

    pub(crate) fn view_mut(&mut self, place: Place) -> TensorViewMut<'_> {
        if place == Place::Here {
            self.here.view_mut()
        } else {
            self.device.view_mut()
        }
    }

    /// Fails unless both are as near as so many roundings allow.
    pub(crate) fn agree(&self, what: &str, roundings: f32) {
        let Tensor::Device(device) = &self.device else {
            panic!("it is on a device")
        };
        assert_near(what, device, &self.here.to_host(), self.format, roundings);
    }

    /// The numbers on the device.
    pub(crate) fn on_device(&self) -> Vec<f32> {
        self.device.to_host().into_owned()
    }

    /// The numbers here.
    pub(crate) fn here(&self) -> Vec<f32> {
        self.here.to_host().into_owned()
    }
}

/// The same whole numbers in both memories.
pub(crate) struct Wholes(pub(crate) Vec<u32>, DeviceBuffer);

impl Wholes {
    pub(crate) fn new(numbers: Vec<u32>) -> Self {
        let buffer = wholes(&numbers);
        Self(numbers, buffer)
    }

    pub(crate) fn view(&self, place: Place) -> IndexView<'_> {
        IndexView::from(self.0.as_slice())
            .with_device_view((place == Place::Device).then(|| self.1.as_view()))
    }

    pub(crate) fn buffer(&self) -> &DeviceBuffer {
        &self.1
    }
}
