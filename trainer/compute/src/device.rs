//! An accelerator as the mathematics sees it: memory, kernels that are launched by name, products. Knows
//! no library of any vendor: that is a [`Driver`]'s part.
//!
//! Nothing here waits for the device but [`Device::check`] and what reads numbers back. What goes wrong is
//! kept until it is asked for: from the first fault on nothing more is done, so nothing is made of wrong
//! numbers.

mod buffer;
mod convert;
mod fault;
mod launch;
mod peers;
mod product;
mod proof;

use std::sync::{Arc, OnceLock};

pub use buffer::{Buffer, Format, Span, SpanMut};
pub use fault::Fault;
pub use launch::{Argument, Launch};
pub use peers::{Group, Peers};
pub use product::{Operand, Product};
pub use proof::prove;

/// Where something lies in a device's memory.
pub type Address = u64;

/// What a device can do. Calls are carried out in their order; all but `download`, `wait` and `memory` may
/// return before they are.
pub trait Driver: std::fmt::Debug + Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;
    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// If it does not say.
    fn memory(&self) -> Result<(u64, u64), Fault>;
    /// Memory of so many bytes, at a multiple of 256.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Address, Fault>;
    /// Gives memory back.
    fn free(&self, at: Address);
    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If it cannot.
    fn clear(&self, at: Address, bytes: usize) -> Result<(), Fault>;
    /// Copies bytes on the device.
    ///
    /// # Errors
    /// If it cannot.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), Fault>;
    /// Copies bytes to the device; they may be overwritten as soon as this returns.
    ///
    /// # Errors
    /// If it cannot.
    fn upload(&self, from: &[u8], to: Address) -> Result<(), Fault>;
    /// Copies bytes from the device, and waits for them.
    ///
    /// # Errors
    /// If it cannot, or if something before went wrong.
    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), Fault>;
    /// Runs a kernel.
    ///
    /// # Errors
    /// If there is no such kernel, or it cannot run.
    fn launch(&self, launch: &Launch) -> Result<(), Fault>;
    /// Multiplies matrices.
    ///
    /// # Errors
    /// If it cannot.
    fn multiply(&self, product: &Product) -> Result<(), Fault>;
    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// If any of it went wrong.
    fn wait(&self) -> Result<(), Fault>;
    /// What rank 0 tells the devices of other ranks so that they find one another.
    ///
    /// # Errors
    /// If such devices do not.
    fn invite(&self) -> Result<Vec<u8>, Fault> {
        Err(Fault::broken(
            "cannot invite other devices",
            "such devices know of no others",
        ))
    }
    /// Meets the devices that were given the same invitation.
    ///
    /// # Errors
    /// If they cannot be reached.
    fn join(
        &self,
        _invitation: &[u8],
        _rank: usize,
        _count: usize,
    ) -> Result<Box<dyn Peers>, Fault> {
        Err(Fault::broken(
            "cannot join other devices",
            "such devices know of no others",
        ))
    }
}

/// A device, shared by whatever lies in its memory.
#[derive(Clone, Debug)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    driver: Box<dyn Driver>,
    fault: OnceLock<Fault>,
}

impl Device {
    /// A device behind a driver.
    pub fn new(driver: impl Driver + 'static) -> Self {
        Self(Arc::new(Shared {
            driver: Box::new(driver),
            fault: OnceLock::new(),
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
    pub fn invite(&self) -> Result<Vec<u8>, Fault> {
        self.0.driver.invite()
    }

    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// If it does not say.
    pub fn memory(&self) -> Result<(u64, u64), Fault> {
        self.0.driver.memory()
    }

    /// Whether everything that was asked for so far could be done: waits for it.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn check(&self) -> Result<(), Fault> {
        self.run(|driver| driver.wait());
        self.fault().map_or(Ok(()), Err)
    }

    /// What went wrong first, as far as it is known: waits for nothing.
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault.get().cloned()
    }

    /// Does something, unless something went wrong before; keeps what goes wrong.
    fn run<T>(&self, work: impl FnOnce(&dyn Driver) -> Result<T, Fault>) -> Option<T> {
        if self.0.fault.get().is_some() {
            return None;
        }

        match work(&*self.0.driver) {
            Ok(result) => Some(result),
            Err(fault) => {
                // Whoever was first is what went wrong first.
                let _ = self.0.fault.set(fault);
                None
            }
        }
    }

    /// Runs a kernel.
    pub fn launch(&self, launch: &Launch) {
        self.run(|driver| driver.launch(launch));
    }

    /// Multiplies matrices.
    pub fn multiply(&self, product: &Product) {
        self.run(|driver| driver.multiply(product));
    }
}
