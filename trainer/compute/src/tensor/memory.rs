//! Where arrays are made.

use cnclip_crds::stage::Precision;

use super::Tensor;
use crate::device::{DType, Device, DeviceBuffer, DeviceError};

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
    pub fn alloc_activations(&self, len: usize) -> Tensor {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, precision) => {
                let format = if *precision == Precision::Bf16 {
                    DType::Bf16
                } else {
                    DType::F32
                };

                Tensor::Device(DeviceBuffer::new(device, len, format))
            }
        }
    }

    /// Numbers that are fp32 everywhere, zero: gradients of weights, moments, statistics, unit features.
    pub fn alloc_f32(&self, len: usize) -> Tensor {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, _) => Tensor::Device(DeviceBuffer::new(device, len, DType::F32)),
        }
    }

    /// Weights, zero: fp32, and on a device that multiplies in bfloat16 rounded beside it.
    pub fn alloc_weights(&self, len: usize) -> Tensor {
        match self {
            Self::Device(device, Precision::Bf16) => {
                Tensor::Device(DeviceBuffer::new(device, len, DType::F32).with_bf16_copy())
            }
            _ => self.alloc_f32(len),
        }
    }

    /// Memory for whole numbers on a device; a host has them already.
    pub fn alloc_u32(&self, len: usize) -> Option<DeviceBuffer> {
        match self {
            Self::Host => None,
            Self::Device(device, _) => Some(DeviceBuffer::new(device, len, DType::U32)),
        }
    }

    /// Memory for bytes on a device; a host has them already.
    pub fn alloc_bytes(&self, len: usize) -> Option<DeviceBuffer> {
        self.device()
            .map(|device| DeviceBuffer::new(device, len, DType::U8))
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
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.device().map_or(Ok(()), Device::synchronize)
    }
}
