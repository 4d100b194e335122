//! Devices: memory, kernels that are launched by name, matrix products. A [`DeviceDriver`] does the work; this
//! module depends on no vendor's library.
//!
//! Calls are asynchronous: only [`Device::synchronize`] and copies to the host wait for the device. The first
//! error is kept until it is queried, and after it every call does nothing, so that no result is computed from
//! wrong numbers and operations need not return errors.

mod buffer;
mod communicator;
mod convert;
mod error;
mod launch;
mod matmul;
mod self_test;

use std::sync::{Arc, OnceLock};

pub use buffer::{DType, DeviceBuffer, DeviceView, DeviceViewMut};
pub use communicator::{DeviceCommunicator, DeviceGroup};
pub use error::DeviceError;
pub use launch::{KernelArgument, KernelLaunch};
pub use matmul::{Gemm, MatrixDesc};
pub use self_test::run_self_test;

/// An address in a device's memory.
pub type DeviceAddress = u64;

/// The driver of a device. Calls are executed in their order; all but `copy_to_host`, `synchronize` and
/// `memory_info` may return before they are complete.
pub trait DeviceDriver: std::fmt::Debug + Send + Sync {
    /// A name to show to people.
    fn name(&self) -> String;
    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// If the driver does not answer.
    fn memory_info(&self) -> Result<(u64, u64), DeviceError>;
    /// Allocates memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// If there is too little.
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DeviceError>;
    /// Frees memory.
    fn free(&self, at: DeviceAddress);
    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If it cannot.
    fn memset_zeros(&self, at: DeviceAddress, bytes: usize) -> Result<(), DeviceError>;
    /// Copies bytes within the device.
    ///
    /// # Errors
    /// If it cannot.
    fn copy_on_device(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        bytes: usize,
    ) -> Result<(), DeviceError>;
    /// Copies bytes to the device; they may be overwritten as soon as this returns.
    ///
    /// # Errors
    /// If it cannot.
    fn copy_to_device(&self, from: &[u8], to: DeviceAddress) -> Result<(), DeviceError>;
    /// Copies bytes from the device, and waits for them.
    ///
    /// # Errors
    /// If it cannot, or if an earlier call failed.
    fn copy_to_host(&self, from: DeviceAddress, to: &mut [u8]) -> Result<(), DeviceError>;
    /// Runs a kernel.
    ///
    /// # Errors
    /// If there is no such kernel, or it cannot run.
    fn launch_kernel(&self, launch: &KernelLaunch) -> Result<(), DeviceError>;
    /// Multiplies matrices.
    ///
    /// # Errors
    /// If it cannot.
    fn gemm(&self, product: &Gemm) -> Result<(), DeviceError>;
    /// Waits until all calls are complete.
    ///
    /// # Errors
    /// If any of them failed.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// The id of a new communicator, which rank 0 sends to all ranks.
    ///
    /// # Errors
    /// If such devices have no communicators.
    fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        Err(DeviceError::failed(
            "cannot create a communicator",
            "such devices do not communicate",
        ))
    }
    /// Joins the communicator with an id, and waits for the other ranks.
    ///
    /// # Errors
    /// If they cannot be reached.
    fn join_communicator(
        &self,
        _id: &[u8],
        _rank: usize,
        _world_size: usize,
    ) -> Result<Box<dyn DeviceCommunicator>, DeviceError> {
        Err(DeviceError::failed(
            "cannot join a communicator",
            "such devices do not communicate",
        ))
    }
}

/// A handle to a device, which all of its buffers share.
#[derive(Clone, Debug)]
pub struct Device(Arc<DeviceState>);

#[derive(Debug)]
struct DeviceState {
    driver: Box<dyn DeviceDriver>,
    // Written once, and read before every call without a lock.
    first_error: OnceLock<DeviceError>,
}

impl Device {
    /// A device with a driver.
    pub fn new(driver: impl DeviceDriver + 'static) -> Self {
        Self(Arc::new(DeviceState {
            driver: Box::new(driver),
            first_error: OnceLock::new(),
        }))
    }

    /// A name to show to people.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// The id of a new communicator, which rank 0 sends to all ranks.
    ///
    /// # Errors
    /// If such devices have no communicators.
    pub fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        self.0.driver.new_communicator_id()
    }

    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub fn memory_info(&self) -> Result<(u64, u64), DeviceError> {
        self.0.driver.memory_info()
    }

    /// Waits until all calls are complete.
    ///
    /// # Errors
    /// The first error of any call so far.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        // Not asked again after an error: a CUDA context stays unusable after a fault in a kernel,
        // and would answer with the same error to everything.
        self.run_unless_failed(|driver| driver.synchronize());
        self.first_error().map_or(Ok(()), Err)
    }

    /// The first error that is known so far; does not wait.
    pub fn first_error(&self) -> Option<DeviceError> {
        self.0.first_error.get().cloned()
    }

    /// Calls the driver, unless an earlier call failed; keeps the error.
    fn run_unless_failed<T>(
        &self,
        work: impl FnOnce(&dyn DeviceDriver) -> Result<T, DeviceError>,
    ) -> Option<T> {
        if self.0.first_error.get().is_some() {
            return None;
        }

        match work(&*self.0.driver) {
            Ok(result) => Some(result),
            Err(error) => {
                // If another thread was first, its error is the one to report: later ones follow from it.
                let _ = self.0.first_error.set(error);
                None
            }
        }
    }

    /// Runs a kernel.
    pub fn launch_kernel(&self, launch: &KernelLaunch) {
        self.run_unless_failed(|driver| driver.launch_kernel(launch));
    }

    /// Multiplies matrices.
    pub fn gemm(&self, product: &Gemm) {
        self.run_unless_failed(|driver| driver.gemm(product));
    }
}
