//! The CUDA driver, one of its GPUs, and this process's context on that GPU.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::device::DeviceError;

/// The oldest driver that runs what the toolkit of this build makes, as the driver counts versions.
const MIN_DRIVER_VERSION: i32 = 13_000;

/// A handle of CUDA, which may be used from any thread: CUDA locks what it refers to.
pub(super) struct RawHandle<T>(pub(super) *mut T);

impl<T> Clone for RawHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for RawHandle<T> {}
// SAFETY: the pointer is never followed here, and the driver takes it from any thread.
unsafe impl<T> Send for RawHandle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for RawHandle<T> {}

/// A driver that answers.
pub(super) struct CudaDriver {
    version: i32,
    /// How many GPUs it has.
    pub(super) device_count: usize,
}

impl CudaDriver {
    /// The newest CUDA that it can serve.
    pub(super) fn cuda_version(&self) -> String {
        format!("{}.{}", self.version / 1000, self.version % 1000 / 10)
    }
}

/// The driver of this machine.
///
/// # Errors
/// If there is none, if it is too old, or if it does not answer.
pub(super) fn init_driver() -> Result<CudaDriver, DeviceError> {
    // The bindings panic where a library is missing: its presence is checked before the first call.
    let doing = "cannot use CUDA";
    // SAFETY: loads the driver's library and lets go of it.
    if !unsafe { sys::is_culib_present() } {
        let found = "this machine has no NVIDIA driver: the loader finds no libcuda.so.1; in a pod, \
                     ask for nvidia.com/gpu";
        return Err(DeviceError::failed(doing, found));
    }

    let mut version = 0;
    // SAFETY: writes one number, and may be called before everything else.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    answer
        .result()
        .map_err(|error| to_device_error(doing, error))?;
    let mut driver = CudaDriver {
        version,
        device_count: 0,
    };

    // Before the driver is initialized: a driver that is too old would fail later, at the first
    // kernel, with an error that does not name the reason.
    if version < MIN_DRIVER_VERSION {
        let version = driver.cuda_version();
        let found =
            format!("the driver serves CUDA up to {version}; 13.0 needs driver 580 or newer");
        return Err(DeviceError::failed(doing, found));
    }

    result::init().map_err(|error| to_device_error(doing, error))?;
    let device_count =
        result::device::get_count().map_err(|error| to_device_error(doing, error))?;
    driver.device_count = usize::try_from(device_count).unwrap_or_default();
    Ok(driver)
}

/// One of the driver's GPUs, which is not used yet.
pub(super) struct DeviceOrdinal(sys::CUdevice);

/// The GPU of this number.
///
/// # Errors
/// If there is no driver or no such GPU.
pub(super) fn find_device(index: usize) -> Result<DeviceOrdinal, DeviceError> {
    let doing = format!("cannot use CUDA device {index}");
    let device_count = init_driver()?.device_count;
    // A process sees what CUDA_VISIBLE_DEVICES and the device plugin of Kubernetes leave to it,
    // counted from 0.
    if index >= device_count {
        return Err(DeviceError::failed(
            doing,
            format!("this process sees {device_count}, counted from 0"),
        ));
    }

    let device =
        result::device::get(index as i32).map_err(|error| to_device_error(&doing, error))?;
    Ok(DeviceOrdinal(device))
}

impl DeviceOrdinal {
    /// As its maker calls it.
    pub(super) fn device_name(&self) -> Result<String, DeviceError> {
        result::device::get_name(self.0)
            .map_err(|error| to_device_error("cannot name a card", error))
    }

    /// The generation of its instructions.
    pub(super) fn compute_capability(&self) -> Result<(i32, i32), DeviceError> {
        use sys::CUdevice_attribute as Attribute;
        let [major, minor] = [
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        ]
        // SAFETY: the device comes from the driver.
        .map(|attribute| unsafe { result::device::get_attribute(self.0, attribute) });
        let query_error = |error| to_device_error("cannot ask a card for its generation", error);

        Ok((major.map_err(query_error)?, minor.map_err(query_error)?))
    }

    /// Bytes of its memory.
    pub(super) fn total_memory(&self) -> Result<u64, DeviceError> {
        // SAFETY: the device comes from the driver.
        let bytes = unsafe { result::device::total_mem(self.0) };
        Ok(
            bytes.map_err(|error| to_device_error("cannot ask a card for its memory", error))?
                as u64,
        )
    }
}

/// This process's use of a GPU; given up when it is dropped.
pub(super) struct CudaContext {
    device: sys::CUdevice,
    context: RawHandle<sys::CUctx_st>,
}

impl CudaContext {
    /// Begins to use a GPU, on this thread too.
    pub(super) fn new(place: DeviceOrdinal) -> Result<Self, DeviceError> {
        // The primary context is the one that cublasLt and NCCL use as well.
        // SAFETY: the device comes from the driver.
        let context = unsafe { result::primary_ctx::retain(place.0) };
        let context =
            context.map_err(|error| to_device_error("cannot begin to use a card", error))?;
        let context = Self {
            device: place.0,
            context: RawHandle(context),
        };

        context.make_current()?;
        Ok(context)
    }

    /// Makes this thread's calls go to the GPU. CUDA keeps the current context for each thread, and rayon may call
    /// from any.
    pub(super) fn make_current(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is kept until it is dropped.
        let entered = unsafe { result::ctx::set_current(self.context.0) };
        entered.map_err(|error| to_device_error("cannot use a card from another thread", error))
    }
}

impl Drop for CudaContext {
    fn drop(&mut self) {
        // SAFETY: it was kept once, and is given up once. An error could not be returned.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// What the driver answered, as an error.
pub(super) fn to_device_error(doing: &str, error: DriverError) -> DeviceError {
    let texts = [error.error_string(), error.error_name()];
    let [what, name] = texts.map(|text| match text {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::new(),
    });

    match name.is_empty() {
        true => DeviceError::failed(doing, format!("CUDA error {}", error.0 as u32)),
        false => DeviceError::failed(doing, format!("{what} ({name})")),
    }
}
