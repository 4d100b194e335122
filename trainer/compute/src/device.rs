//! An accelerator as the mathematics sees it: memory, kernels that are launched by name, products. Knows
//! no library of any vendor: that is a [`Driver`]'s part.
//!
//! Nothing here waits for the device but [`Device::check`] and what reads numbers back. What goes wrong is
//! kept until it is asked for: from the first fault on nothing more is done, so nothing is made of wrong
//! numbers.

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

/// Where something lies in a device's memory.
pub type DeviceAddress = u64;

/// What a device can do. Calls are carried out in their order; all but `download`, `wait` and `memory` may
/// return before they are.
pub trait DeviceDriver: std::fmt::Debug + Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;
    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// If it does not say.
    fn memory_info(&self) -> Result<(u64, u64), DeviceError>;
    /// Memory of so many bytes, at a multiple of 256.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DeviceError>;
    /// Gives memory back.
    fn free(&self, at: DeviceAddress);
    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If it cannot.
    fn memset_zeros(&self, at: DeviceAddress, bytes: usize) -> Result<(), DeviceError>;
    /// Copies bytes on the device.
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
    /// If it cannot, or if something before went wrong.
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
    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// If any of it went wrong.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// What rank 0 tells the devices of other ranks so that they find one another.
    ///
    /// # Errors
    /// If such devices do not.
    fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        Err(DeviceError::failed(
            "cannot invite other devices",
            "such devices know of no others",
        ))
    }
    /// Meets the devices that were given the same invitation.
    ///
    /// # Errors
    /// If they cannot be reached.
    fn join_communicator(
        &self,
        _invitation: &[u8],
        _rank: usize,
        _count: usize,
    ) -> Result<Box<dyn DeviceCommunicator>, DeviceError> {
        Err(DeviceError::failed(
            "cannot join other devices",
            "such devices know of no others",
        ))
    }
}

/// A device, shared by whatever lies in its memory.
#[derive(Clone, Debug)]
pub struct Device(Arc<DeviceState>);

#[derive(Debug)]
struct DeviceState {
    driver: Box<dyn DeviceDriver>,
    first_error: OnceLock<DeviceError>,
}

impl Device {
    /// A device behind a driver.
    pub fn new(driver: impl DeviceDriver + 'static) -> Self {
        Self(Arc::new(DeviceState {
            driver: Box::new(driver),
            first_error: OnceLock::new(),
        }))
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// What rank 0 tells the devices of other ranks so that they find one another.
    ///
    /// # Errors
    /// If such devices do not.
    pub fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        self.0.driver.new_communicator_id()
    }

    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// If it does not say.
    pub fn memory_info(&self) -> Result<(u64, u64), DeviceError> {
        self.0.driver.memory_info()
    }

    /// Whether everything that was asked for so far could be done: waits for it.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.run_unless_failed(|driver| driver.synchronize());
        self.first_error().map_or(Ok(()), Err)
    }

    /// What went wrong first, as far as it is known: waits for nothing.
    pub fn first_error(&self) -> Option<DeviceError> {
        self.0.first_error.get().cloned()
    }

    /// Does something, unless something went wrong before; keeps what goes wrong.
    fn run_unless_failed<T>(
        &self,
        work: impl FnOnce(&dyn DeviceDriver) -> Result<T, DeviceError>,
    ) -> Option<T> {
        if self.0.first_error.get().is_some() {
            return None;
        }

        match work(&*self.0.driver) {
            Ok(result) => Some(result),
            Err(fault) => {
                // Whoever was first is what went wrong first.
                let _ = self.0.first_error.set(fault);
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
