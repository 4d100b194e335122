//! Runs the trainer's kernels on this machine's processor: a [`Driver`] for tests, which finds what a card
//! would not tell of. Slow, and never part of an image.

mod memory;
mod peers;
mod products;

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cnclip_compute::device::{Address, Argument, Device, Driver, Fault, Launch, Peers, Product};
use memory::Memory;

/// A processor that does what a card does.
///
/// # Guarantees
/// A kernel whose arguments are not those of its signature, that writes around memory that it was given, or
/// whose threads wait for each other in vain is a fault. Memory that was not written holds no numbers.
#[derive(Debug)]
pub struct Emulator {
    memory: Arc<Mutex<Memory>>,
    /// Calls that it still answers.
    calls: Arc<AtomicU64>,
}

impl Emulator {
    /// A device with so many bytes of memory.
    pub fn device(bytes: u64) -> Device {
        Self::breaking(bytes, Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// The same, which breaks after so many calls: how many are left is seen and set from outside.
    pub fn breaking(bytes: u64, calls: Arc<AtomicU64>) -> Device {
        Device::new(Self {
            memory: Arc::new(Mutex::new(Memory::new(bytes, 0))),
            calls,
        })
    }

    /// The same, of whose memory something else takes a part that it does not tell of.
    pub fn crowded(bytes: u64, taken: u64) -> Device {
        let calls = Arc::new(AtomicU64::new(u64::MAX));
        Device::new(Self {
            memory: Arc::new(Mutex::new(Memory::new(bytes, taken))),
            calls,
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a call, unless it is broken.
    fn answer(&self) -> Result<MutexGuard<'_, Memory>, Fault> {
        let left = |calls: u64| calls.checked_sub(1);
        match self
            .calls
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
        {
            Ok(_) => Ok(self.memory()),
            Err(_) => Err(Fault::broken("cannot use an emulated device", "it broke")),
        }
    }
}

impl Driver for Emulator {
    fn name(&self) -> String {
        "an emulated device".into()
    }

    fn memory(&self) -> Result<(u64, u64), Fault> {
        let memory = self.memory();
        Ok((memory.free, memory.all))
    }

    fn allocate(&self, bytes: usize) -> Result<Address, Fault> {
        self.answer()?.allocate(bytes)
    }

    fn free(&self, at: Address) {
        self.memory().release(at);
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<(), Fault> {
        self.answer()?.write(at, bytes)?.fill(0);
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), Fault> {
        let mut memory = self.answer()?;
        let copied = memory.read(from, bytes)?.to_vec();
        memory.write(to, bytes)?.copy_from_slice(&copied);
        Ok(())
    }

    fn upload(&self, from: &[u8], to: Address) -> Result<(), Fault> {
        self.answer()?.write(to, from.len())?.copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), Fault> {
        to.copy_from_slice(self.answer()?.read(from, to.len())?);
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), Fault> {
        let fault = |found: String| Fault::broken(format!("the kernel {}", launch.kernel), found);
        let pointers: Vec<Address> = launch.arguments.iter().filter_map(pointer).collect();
        drop(self.answer()?);

        for &at in &pointers {
            self.memory()
                .read(at, 0)
                .map_err(|found| fault(found.to_string()))?;
        }

        run(launch).map_err(fault)?;
        let memory = self.memory();
        match pointers.iter().find(|at| !memory.is_fenced(**at)) {
            Some(at) => Err(fault(format!("it wrote around the memory at {at:#x}"))),
            None => Ok(()),
        }
    }

    fn multiply(&self, product: &Product) -> Result<(), Fault> {
        products::multiply(&mut *self.answer()?, product)
    }

    fn wait(&self) -> Result<(), Fault> {
        self.answer().map(drop)
    }

    fn invite(&self) -> Result<Vec<u8>, Fault> {
        Ok(peers::invite())
    }

    fn join(&self, invitation: &[u8], rank: usize, count: usize) -> Result<Box<dyn Peers>, Fault> {
        Ok(Box::new(peers::join(
            self.memory.clone(),
            invitation,
            (rank, count),
        )?))
    }
}

fn pointer(argument: &Argument) -> Option<Address> {
    match argument {
        Argument::Address(at) if *at != 0 => Some(*at),
        _ => None,
    }
}

// SAFETY: the signature is that of `shim/run.cpp`.
unsafe extern "C" {
    fn emulator_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        kinds: *const c_char,
        given: *const u64,
        wrong: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// Runs all threads of a kernel.
fn run(launch: &Launch) -> Result<(), String> {
    let mut kinds = String::new();
    let mut given = Vec::new();
    for argument in &launch.arguments {
        let (kind, bits) = match *argument {
            Argument::Address(at) => ('p', at),
            Argument::Whole(number) => ('w', number.into()),
            Argument::Long(number) => ('l', number),
            Argument::Real(number) => ('r', number.to_bits().into()),
        };

        kinds.push(kind);
        given.push(bits);
    }

    let words = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let name = words(&launch.kernel)?;
    let kinds = words(&kinds)?;
    let mut wrong = [0_u8; 256];
    // SAFETY: all pointers are of things that live until the call returns; `given` is as long as `kinds`,
    // and `wrong` as long as it is said to be. Pointers among the arguments lie in allocated memory.
    let code = unsafe {
        emulator_launch(
            name.as_ptr(),
            launch.grid.as_ptr(),
            launch.threads,
            kinds.as_ptr(),
            given.as_ptr(),
            wrong.as_mut_ptr().cast(),
            wrong.len(),
        )
    };

    let said = wrong.split(|byte| *byte == 0).next().unwrap_or_default();
    if code == 0 {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(said).into_owned())
    }
}
