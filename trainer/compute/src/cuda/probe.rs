//! What CUDA has on this machine, asked without touching a GPU's memory.

use serde::Serialize;

use crate::device::DeviceError;

/// The driver, the libraries and the GPUs of a machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CudaInventory {
    /// The newest CUDA that the driver can serve: `13.0`.
    pub driver: String,
    /// The libraries that this program may call.
    pub libraries: Vec<CudaLibrary>,
    /// In the driver's order.
    pub cards: Vec<GpuInfo>,
}

/// A library, and whether the loader finds it.
#[derive(Debug, Serialize)]
pub struct CudaLibrary {
    /// Its file, without the version.
    pub name: &'static str,
    /// What it is called for.
    pub does: &'static str,
    /// Whether it could be loaded.
    pub found: bool,
}

/// A GPU.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuInfo {
    /// As its maker calls it.
    pub name: String,
    /// The generation of its instructions: `9.0`.
    pub capability: String,
    /// Bytes of its memory.
    pub memory: u64,
}

/// What there is.
///
/// # Errors
/// If there is no driver, or if this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn probe_cuda() -> Result<CudaInventory, DeviceError> {
    Err(DeviceError::failed(
        "cannot look for cards",
        super::NO_CUDA_MESSAGE,
    ))
}

/// What there is.
///
/// # Errors
/// If there is no driver, or if it does not answer.
#[cfg(feature = "cuda")]
pub fn probe_cuda() -> Result<CudaInventory, DeviceError> {
    let driver = super::context::init_driver()?;
    let cards = (0..driver.device_count)
        .map(GpuInfo::probe_gpu)
        .collect::<Result<_, _>>()?;

    Ok(CudaInventory {
        driver: driver.cuda_version(),
        libraries: probe_libraries(),
        cards,
    })
}

/// Every library that this program may call, looked for.
#[cfg(feature = "cuda")]
fn probe_libraries() -> Vec<CudaLibrary> {
    use cudarc::{cublaslt, nccl};
    // SAFETY: loads a library of this name and lets go of it; NVIDIA's libraries do nothing when loaded.
    let (products, gradients) = unsafe {
        (
            cublaslt::sys::is_culib_present(),
            nccl::sys::is_culib_present(),
        )
    };

    vec![
        CudaLibrary {
            name: "libcublasLt.so",
            does: "products of matrices",
            found: products,
        },
        CudaLibrary {
            name: "libnccl.so",
            does: "sums over several cards",
            found: gradients,
        },
    ]
}

#[cfg(feature = "cuda")]
impl GpuInfo {
    fn probe_gpu(index: usize) -> Result<Self, DeviceError> {
        let card = super::context::find_device(index)?;
        let (major, minor) = card.compute_capability()?;
        Ok(Self {
            name: card.device_name()?,
            capability: format!("{major}.{minor}"),
            memory: card.total_memory()?,
        })
    }
}
