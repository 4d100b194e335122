//! NVIDIA GPUs as devices. NVIDIA's libraries are loaded when the first GPU is opened, so one program starts with
//! and without them. A build without the feature `cuda` has the same functions and finds no GPU.

#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
mod cuda_device;
#[cfg(feature = "cuda")]
mod gemm_cache;
#[cfg(feature = "cuda")]
mod gemm_plan;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod nccl_communicator;
mod probe;
#[cfg(feature = "cuda")]
mod staging;

pub use probe::{CudaInventory, CudaLibrary, GpuInfo, probe_cuda};

use crate::device::{Device, DeviceError};

/// Whether this program was built with CUDA.
pub const BUILT_WITH_CUDA: bool = cfg!(feature = "cuda");

/// Opens the GPU with an index, as the driver counts them.
///
/// # Errors
/// If there is none, if it or its driver is too old, if a library is missing, or if this program was built
/// without CUDA.
#[cfg(feature = "cuda")]
pub fn open_device(index: usize) -> Result<Device, DeviceError> {
    cuda_device::CudaDevice::open(index).map(Device::new)
}

/// Opens the GPU with an index: there is none for a program that was built without CUDA.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn open_device(index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::failed(
        format!("cannot use CUDA device {index}"),
        NO_CUDA_MESSAGE,
    ))
}

/// The error of a program that was built without CUDA.
#[cfg(not(feature = "cuda"))]
const NO_CUDA_MESSAGE: &str =
    "this program was built without CUDA; use the image trainer-cuda, or build with `make cuda`";
