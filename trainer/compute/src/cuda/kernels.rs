//! The kernels of this build, found by name and launched.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::RwLock;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::context::{RawHandle, to_device_error};
use crate::device::{DeviceError, KernelArgument, KernelLaunch};
use crate::sync::ignore_poison;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// A compiled file; the driver reads its header as numbers of 64 bits.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// All kernels, loaded onto one GPU.
pub(super) struct KernelModules {
    modules: Vec<RawHandle<sys::CUmod_st>>,
    // Found by name at the first launch. Read by every launch, written once for each kernel: hence RwLock.
    functions: RwLock<HashMap<String, RawHandle<sys::CUfunc_st>>>,
}

impl KernelModules {
    /// Loads every compiled file onto the GPU of this thread.
    pub(super) fn load_modules() -> Result<Self, DeviceError> {
        let mut kernels = Self {
            modules: Vec::new(),
            functions: RwLock::default(),
        };

        // All at the start: a GPU that they were not compiled for is reported before training
        // begins.
        for &(file, image) in IMAGES {
            // SAFETY: the image is what nvcc wrote, whole.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            let doing = || format!("cannot load the kernels of {file}.cu");
            kernels.modules.push(RawHandle(
                module.map_err(|error| to_device_error(&doing(), error))?,
            ));
        }

        Ok(kernels)
    }

    /// Runs a kernel on a stream.
    pub(super) fn launch_kernel(
        &self,
        launch: &KernelLaunch,
        stream: sys::CUstream,
    ) -> Result<(), DeviceError> {
        let KernelLaunch {
            kernel,
            grid: [x, y, z],
            threads,
            arguments,
        } = launch;

        let function = self.find_function(kernel)?;
        // A kernel reads each argument's own size from where its pointer points, and the machine is
        // little-endian.
        let mut values: Vec<u64> = arguments.iter().copied().map(argument_bits).collect();

        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();

        let grid = (*x, *y, *z);
        let block = (*threads, 1, 1);
        // SAFETY: the function is of a loaded module, its arguments are copied before this returns, and
        // they point into memory that the caller's spans hold.
        let done =
            unsafe { result::launch_kernel(function.0, grid, block, 0, stream, &mut pointers) };

        done.map_err(|error| {
            to_device_error(
                &format!("cannot run {kernel} in {grid:?} blocks of {threads} threads"),
                error,
            )
        })
    }

    fn find_function(&self, name: &str) -> Result<RawHandle<sys::CUfunc_st>, DeviceError> {
        // The read lock ends with this statement: held any longer, it would block the write below.
        let known = ignore_poison(self.functions.read()).get(name).copied();

        if let Some(function) = known {
            return Ok(function);
        }

        let doing = || format!("cannot find the kernel {name}");
        let text = CString::new(name).map_err(|error| DeviceError::failed(doing(), error))?;
        let found = self.modules.iter().find_map(|module| {
            // SAFETY: the module is loaded until this is dropped.
            unsafe { result::module::get_function(module.0, text.clone()) }.ok()
        });

        let Some(function) = found.map(RawHandle) else {
            let files: Vec<_> = IMAGES.iter().map(|(file, _)| *file).collect();

            let files = files.join(", ");
            let found = format!("it is in none of the compiled files: {files}");
            return Err(DeviceError::failed(doing(), found));
        };

        // Two threads may search for one kernel at the same time: both insert the same handle.
        ignore_poison(self.functions.write()).insert(name.to_owned(), function);
        Ok(function)
    }
}

impl Drop for KernelModules {
    fn drop(&mut self) {
        for module in &self.modules {
            // SAFETY: it was loaded once, and nothing runs any more. An error could not be returned.
            let _ = unsafe { result::module::unload(module.0) };
        }
    }
}

/// An argument's bytes, in the first bytes of a number.
fn argument_bits(argument: KernelArgument) -> u64 {
    match argument {
        KernelArgument::Address(number) | KernelArgument::U64(number) => number,
        KernelArgument::U32(number) => number.into(),
        KernelArgument::F32(number) => number.to_bits().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_in_the_bytes_that_a_kernel_reads() {
        assert_eq!(
            argument_bits(KernelArgument::U32(7)).to_le_bytes()[..4],
            7_u32.to_le_bytes()
        );

        assert_eq!(
            argument_bits(KernelArgument::F32(1.5)).to_le_bytes()[..4],
            1.5_f32.to_le_bytes()
        );

        assert_eq!(argument_bits(KernelArgument::U64(1 << 40)), 1 << 40);
    }

    #[test]
    fn no_kernel_keeps_numbers_that_should_be_in_registers_in_memory() {
        let spilling: Vec<_> = SPILLS.iter().filter(|(_, bytes)| *bytes > 0).collect();
        assert!(spilling.is_empty(), "bytes by kernel: {spilling:?}");
    }
}
