//! A GPU as a [`DeviceDriver`], with one stream: work is executed in the order of the calls, so that operations
//! need no synchronization among themselves.

use std::sync::Mutex;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::context::{self, CudaContext, RawHandle, to_device_error};
use super::gemm_cache::GemmCache;
use super::kernels::KernelModules;
use super::nccl_communicator;
use super::staging::StagingBuffers;
use crate::device::{
    DeviceAddress, DeviceCommunicator, DeviceDriver, DeviceError, Gemm, KernelLaunch,
};
use crate::sync::lock_ignoring_poison;

/// A GPU that is used.
pub(super) struct CudaDevice {
    name: String,
    // Fields are dropped in their order, and all of them belong to the context: it comes last.
    gemm_cache: Mutex<GemmCache>,
    staging: Mutex<StagingBuffers>,
    kernels: KernelModules,
    stream: CudaStream,
    context: CudaContext,
}

/// A stream of the GPU.
struct CudaStream(RawHandle<sys::CUstream_st>);

impl CudaStream {
    fn new() -> Result<Self, DeviceError> {
        // Non-blocking: otherwise it would wait for the legacy default stream and that for it.
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        stream
            .map(|stream| Self(RawHandle(stream)))
            .map_err(|error| to_device_error("cannot make a stream", error))
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // SAFETY: it was made once, and nothing uses it any more. An error could not be returned.
        let _ = unsafe { result::stream::destroy(self.0.0) };
    }
}

impl CudaDevice {
    /// Begins to use a GPU.
    pub(super) fn open(index: usize) -> Result<Self, DeviceError> {
        let place = context::find_device(index)?;
        let name = place.device_name()?;
        let (major, minor) = place.compute_capability()?;

        // Tensor cores for bfloat16 and cp.async, which the kernels use, begin with 8.0.
        if major < 8 {
            let found =
                format!("{name} is of generation {major}.{minor}; 8.0 (A100) is the oldest");
            return Err(DeviceError::failed(
                format!("cannot use CUDA device {index}"),
                found,
            ));
        }

        // First: whatever is made below belongs to the context that is current on this thread.
        let context = CudaContext::new(place)?;
        let stream = CudaStream::new()?;
        let kernels = KernelModules::load_modules()?;
        let staging = Mutex::new(StagingBuffers::new()?);
        let gemm_cache = Mutex::new(GemmCache::new()?);

        Ok(Self {
            name,
            gemm_cache,
            staging,
            kernels,
            stream,
            context,
        })
    }

    fn raw_stream(&self) -> sys::CUstream {
        self.stream.0.0
    }

    /// Calls the driver with this GPU's context and stream.
    fn call_driver(
        &self,
        doing: &str,
        work: impl FnOnce(sys::CUstream) -> Result<(), DriverError>,
    ) -> Result<(), DeviceError> {
        self.context.make_current()?;
        work(self.raw_stream()).map_err(|error| to_device_error(doing, error))
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl DeviceDriver for CudaDevice {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory_info(&self) -> Result<(u64, u64), DeviceError> {
        self.context.make_current()?;
        let (free, all) = result::mem_get_info()
            .map_err(|error| to_device_error("cannot ask a card for its free memory", error))?;
        Ok((free as u64, all as u64))
    }

    fn allocate(&self, bytes: usize) -> Result<DeviceAddress, DeviceError> {
        self.context.make_current()?;
        // SAFETY: the caller gives it back by `free`, once.
        match unsafe { result::malloc_sync(bytes) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                // Asked for after the failure: the message shows what other processes have left.
                let (free, all) = self.memory_info()?;
                Err(DeviceError::OutOfMemory {
                    wanted: bytes as u64,
                    free,
                    all,
                })
            }
            answer => {
                answer.map_err(|error| to_device_error("cannot reserve a card's memory", error))
            }
        }
    }

    fn free(&self, at: DeviceAddress) {
        // SAFETY: `at` comes from `allocate`. An error could not be returned.
        let _ = self.call_driver("", |_| unsafe { result::free_sync(at) });
    }

    fn memset_zeros(&self, at: DeviceAddress, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }

        // SAFETY: the caller's span lies in memory that it holds.
        self.call_driver("cannot clear a card's memory", |stream| unsafe {
            result::memset_d8_async(at, 0, bytes, stream)
        })
    }

    fn copy_on_device(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }

        // SAFETY: the caller's spans lie in memory that it holds.
        self.call_driver("cannot copy on a card", |stream| unsafe {
            result::memcpy_dtod_async(to, from, bytes, stream)
        })
    }

    fn copy_to_device(&self, from: &[u8], to: DeviceAddress) -> Result<(), DeviceError> {
        self.context.make_current()?;
        // Locked until the copies are enqueued: pages are used again in the order of the stream.
        lock_ignoring_poison(&self.staging).copy_to_device(from, to, self.raw_stream())
    }

    fn copy_to_host(&self, from: DeviceAddress, to: &mut [u8]) -> Result<(), DeviceError> {
        if to.is_empty() {
            // Even without bytes to copy: callers rely on the wait to see errors of earlier calls.
            return self.synchronize();
        }

        // SAFETY: the caller's span lies in memory that it holds, and `to` is written before we return.
        self.call_driver("cannot read a card's memory", |stream| unsafe {
            result::memcpy_dtoh_async(to, from, stream)
        })?;

        self.synchronize()
    }

    fn launch_kernel(&self, launch: &KernelLaunch) -> Result<(), DeviceError> {
        self.context.make_current()?;
        self.kernels.launch_kernel(launch, self.raw_stream())
    }

    fn gemm(&self, product: &Gemm) -> Result<(), DeviceError> {
        self.context.make_current()?;
        // Locked until the product is enqueued: a cached plan holds the bias of one product at a
        // time.
        lock_ignoring_poison(&self.gemm_cache).gemm(product, self.raw_stream())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as the GPU.
        self.call_driver(
            "something that was asked of the card failed",
            |stream| unsafe { result::stream::synchronize(stream) },
        )
    }

    fn new_communicator_id(&self) -> Result<Vec<u8>, DeviceError> {
        self.context.make_current()?;
        nccl_communicator::new_unique_id()
    }

    fn join_communicator(
        &self,
        invitation: &[u8],
        rank: usize,
        count: usize,
    ) -> Result<Box<dyn DeviceCommunicator>, DeviceError> {
        self.context.make_current()?;
        let communicator = nccl_communicator::NcclCommunicator::init_rank(
            invitation,
            rank,
            count,
            self.raw_stream(),
        )?;
        Ok(Box::new(communicator))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // What is dropped after this belongs to the GPU, on this thread too.
        let _ = self.synchronize();
    }
}
