//! Allocation of tensors.

use cnclip_crds::stage::Precision;

use super::Tensor;
use crate::device::{DType, Device, DeviceBuffer, DeviceError};

/// The memory that a model computes in.
///
/// ```
/// use cnclip_compute::tensor::Memory;
///
/// let memory = Memory::Host;
/// assert_eq!(memory.alloc_f32(4).len(), 4);
/// assert!(memory.device().is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub enum Memory {
    /// Host memory, where all numbers are fp32.
    #[default]
    Host,
    /// A device's memory, with activations in the number format of products.
    Device(Device, Precision),
}

impl Memory {
    /// Activations, zero; on a device in the number format of products.
    pub fn alloc_activations(&self, len: usize) -> Tensor {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, precision) => {
                let dtype = if *precision == Precision::Bf16 {
                    DType::Bf16
                } else {
                    DType::F32
                };

                Tensor::Device(DeviceBuffer::new(device, len, dtype))
            }
        }
    }

    /// Numbers that are fp32 in any precision, zero: gradients of weights, moments, statistics, features.
    pub fn alloc_f32(&self, len: usize) -> Tensor {
        match self {
            Self::Host => vec![0.0; len].into(),
            Self::Device(device, _) => Tensor::Device(DeviceBuffer::new(device, len, DType::F32)),
        }
    }

    /// Weights, zero: fp32, with a bfloat16 copy on a device that multiplies in bfloat16.
    ///
    /// Steps of the optimizer are smaller than bfloat16 resolves, so weights must be fp32; products are faster
    /// from bfloat16.
    pub fn alloc_weights(&self, len: usize) -> Tensor {
        match self {
            Self::Device(device, Precision::Bf16) => {
                Tensor::Device(DeviceBuffer::new(device, len, DType::F32).with_bf16_copy())
            }
            // The CPU rounds operands as it multiplies them: its weights need no copy.
            _ => self.alloc_f32(len),
        }
    }

    /// A buffer for indices on a device; none for host memory, where they are already.
    pub fn alloc_u32(&self, len: usize) -> Option<DeviceBuffer> {
        match self {
            Self::Host => None,
            Self::Device(device, _) => Some(DeviceBuffer::new(device, len, DType::U32)),
        }
    }

    /// A buffer for bytes on a device; none for host memory, where they are already.
    pub fn alloc_bytes(&self, len: usize) -> Option<DeviceBuffer> {
        self.device()
            .map(|device| DeviceBuffer::new(device, len, DType::U8))
    }

    /// The device, if it is a device's.
    pub fn device(&self) -> Option<&Device> {
        match self {
            Self::Host => None,
            Self::Device(device, _) => Some(device),
        }
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// The first error of any call so far.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.device().map_or(Ok(()), Device::synchronize)
    }
}
