//! Where arrays are made.

use cnclip_crds::stage::Precision;

use super::Array;
use crate::device::{Buffer, Device, Fault, Format};

/// The memory that a model computes in.
#[derive(Clone, Debug, Default)]
pub enum Memory {
    /// That of this machine, where all numbers are fp32.
    #[default]
    Host,
    /// That of a device, which keeps activations in the number format of products.
    Device(Device, Precision),
}

impl Memory {
    /// Numbers on their way through a model, zero: on a device in the number format of products.
    pub fn array(&self, len: usize) -> Array {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, precision) => {
                let format = if *precision == Precision::Bf16 {
                    Format::Bf16
                } else {
                    Format::F32
                };

                Array::Device(Buffer::new(device, len, format))
            }
        }
    }

    /// Numbers that are fp32 everywhere, zero: gradients of weights, moments, statistics, unit features.
    pub fn exact(&self, len: usize) -> Array {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, _) => Array::Device(Buffer::new(device, len, Format::F32)),
        }
    }

    /// Weights, zero: fp32, and on a device that multiplies in bfloat16 rounded beside it.
    pub fn weights(&self, len: usize) -> Array {
        match self {
            Self::Device(device, Precision::Bf16) => {
                Array::Device(Buffer::new(device, len, Format::F32).with_twin())
            }
            _ => self.exact(len),
        }
    }

    /// Memory for whole numbers on a device; a host has them already.
    pub fn whole(&self, len: usize) -> Option<Buffer> {
        match self {
            Self::Host => None,
            Self::Device(device, _) => Some(Buffer::new(device, len, Format::U32)),
        }
    }

    /// Memory for bytes on a device; a host has them already.
    pub fn bytes(&self, len: usize) -> Option<Buffer> {
        self.device()
            .map(|device| Buffer::new(device, len, Format::U8))
    }

    /// The device, if it is one's.
    pub fn device(&self) -> Option<&Device> {
        match self {
            Self::Host => None,
            Self::Device(device, _) => Some(device),
        }
    }

    /// Whether everything that was asked of the device so far could be done: it is waited for.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn check(&self) -> Result<(), Fault> {
        self.device().map_or(Ok(()), Device::check)
    }
}
