//! An emulated device for tests: a [`DeviceDriver`] that runs the trainer's kernels on the CPU and detects faults
//! that a GPU does not report. Slow, and never part of a container image.

mod communicator;
mod matmul;
mod memory;

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cnclip_compute::device::{
    Device, DeviceAddress, DeviceCommunicator, DeviceDriver, DeviceError, Gemm, KernelArgument,
    KernelLaunch,
};
use cnclip_compute::sync::lock_ignoring_poison;
use memory::EmulatedMemory;

/// The driver of an emulated device.
///
/// # Guarantees
/// It is an error if a kernel's arguments do not match its signature, if it writes outside of an allocation, or if its
/// threads wait at a barrier that others never reach. Memory that was not written holds NaN.
#[derive(Debug)]
pub struct Emulator {
    memory: Arc<Mutex<EmulatedMemory>>,
    /// Calls until it fails.
    calls_left: Arc<AtomicU64>,
    /// The kernel whose output is perturbed.
    broken_kernel: Option<String>,
}

impl Emulator {
    /// A device with `bytes` of memory.
    pub fn new_device(bytes: u64) -> Device {
        Self::failing_after(bytes, Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// The same, which fails after a number of calls, which the caller may read and set.
    pub fn failing_after(bytes: u64, calls: Arc<AtomicU64>) -> Device {
        Device::new(Self::build(EmulatedMemory::new(bytes, 0), calls, None))
    }

    /// The same, where another process uses a part of the memory that the device reports as free.
    pub fn with_foreign_memory(bytes: u64, taken: u64) -> Device {
        let calls = Arc::new(AtomicU64::new(u64::MAX));
        Device::new(Self::build(EmulatedMemory::new(bytes, taken), calls, None))
    }

    /// A device of which one kernel, by its exported name, writes wrong values: what it changes in
    /// memory comes out 2 % larger in magnitude. Tests show with it that a broken kernel is found.
    ///
    /// A kernel whose name ends in `_bf16` is taken to write bf16, any other fp32.
    pub fn with_broken_kernel(bytes: u64, kernel: &str) -> Device {
        let calls = Arc::new(AtomicU64::new(u64::MAX));
        let memory = EmulatedMemory::new(bytes, 0);
        Device::new(Self::build(memory, calls, Some(kernel.to_owned())))
    }

    fn build(
        memory: EmulatedMemory,
        calls_left: Arc<AtomicU64>,
        broken_kernel: Option<String>,
    ) -> Self {
        Self {
            memory: Arc::new(Mutex::new(memory)),
            calls_left,
            broken_kernel,
        }
    }

    fn lock_memory(&self) -> MutexGuard<'_, EmulatedMemory> {
        lock_ignoring_poison(&self.memory)
    }

    /// Begins a call, unless the device has failed.
    fn begin_call(&self) -> Result<MutexGuard<'_, EmulatedMemory>, DeviceError> {
        let left = |calls: u64| calls.checked_sub(1);
        match self
            .calls_left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
        {
            Ok(_) => Ok(self.lock_memory()),
            Err(_) => Err(DeviceError::failed(
                "cannot use an emulated device",
                "it broke",
            )),
        }
    }
}

impl DeviceDriver for Emulator {
    fn name(&self) -> String {
        "an emulated device".into()
    }

    fn memory_info(&self) -> Result<(u64, u64), DeviceError> {
        let memory = self.lock_memory();
        Ok((memory.free, memory.total))
    }

    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DeviceError> {
        self.begin_call()?.allocate_guarded(bytes)
    }

    fn free(&self, at: DeviceAddress) {
        self.lock_memory().release_guarded(at);
    }

    fn memset_zeros(&self, at: DeviceAddress, bytes: usize) -> Result<(), DeviceError> {
        self.begin_call()?.bytes_mut(at, bytes)?.fill(0);
        Ok(())
    }

    fn copy_on_device(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let mut memory = self.begin_call()?;
        let copied = memory.read_bytes(from, bytes)?.to_vec();
        memory.bytes_mut(to, bytes)?.copy_from_slice(&copied);
        Ok(())
    }

    fn copy_to_device(&self, from: &[u8], to: DeviceAddress) -> Result<(), DeviceError> {
        self.begin_call()?
            .bytes_mut(to, from.len())?
            .copy_from_slice(from);
        Ok(())
    }

    fn copy_to_host(&self, from: DeviceAddress, to: &mut [u8]) -> Result<(), DeviceError> {
        to.copy_from_slice(self.begin_call()?.read_bytes(from, to.len())?);
        Ok(())
    }

    fn launch_kernel(&self, launch: &KernelLaunch) -> Result<(), DeviceError> {
        let fault =
            |found: String| DeviceError::failed(format!("the kernel {}", launch.kernel), found);
        let pointers: Vec<DeviceAddress> = launch
            .arguments
            .iter()
            .filter_map(argument_pointer)
            .collect();
        drop(self.begin_call()?);

        for &at in &pointers {
            self.lock_memory()
                .read_bytes(at, 0)
                .map_err(|found| fault(found.to_string()))?;
        }

        if self.broken_kernel.as_ref() == Some(&launch.kernel) {
            // A kernel's arguments do not say which of them it writes: what it changed does.
            let before = self.lock_memory().snapshot_allocations(&pointers);
            run_kernel(launch).map_err(fault)?;
            let is_bf16 = launch.kernel.ends_with("_bf16");
            self.lock_memory().perturb_changes(&before, is_bf16);
        } else {
            run_kernel(launch).map_err(fault)?;
        }

        let memory = self.lock_memory();
        match pointers.iter().find(|at| !memory.are_guards_intact(**at)) {
            Some(at) => Err(fault(format!("it wrote around the memory at {at:#x}"))),
            None => Ok(()),
        }
    }

    fn gemm(&self, product: &Gemm) -> Result<(), DeviceError> {
        matmul::batched_gemm(&mut *self.begin_call()?, product)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.begin_call().map(drop)
    }

    fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        Ok(communicator::new_communicator_id())
    }

    fn join_communicator(
        &self,
        invitation: &[u8],
        rank: usize,
        count: usize,
    ) -> Result<Box<dyn DeviceCommunicator>, DeviceError> {
        Ok(Box::new(communicator::join_communicator(
            self.memory.clone(),
            invitation,
            rank,
            count,
        )?))
    }
}

fn argument_pointer(argument: &KernelArgument) -> Option<DeviceAddress> {
    match argument {
        KernelArgument::Address(at) if *at != 0 => Some(*at),
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
fn run_kernel(launch: &KernelLaunch) -> Result<(), String> {
    let mut kinds = String::new();
    let mut given = Vec::new();
    for argument in &launch.arguments {
        let (kind, bits) = match *argument {
            KernelArgument::Address(at) => ('p', at),
            KernelArgument::U32(number) => ('w', number.into()),
            KernelArgument::U64(number) => ('l', number),
            KernelArgument::F32(number) => ('r', number.to_bits().into()),
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
