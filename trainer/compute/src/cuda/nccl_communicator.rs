//! GPUs that reach one another through NCCL, on a stream of their own beside that of the computation.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::result::{self, DriverError, stream};
use cudarc::driver::sys;
use cudarc::nccl::result as nccl;
use cudarc::nccl::sys as nccl_sys;

use super::context::{RawHandle, to_device_error};
use crate::device::{DeviceAddress, DeviceCommunicator, DeviceError};
use crate::sync::lock_ignoring_poison;

/// The unique id that rank 0 broadcasts, so that the communicators find one another.
///
/// # Errors
/// If NCCL is missing or does not answer.
pub(super) fn new_unique_id() -> Result<Vec<u8>, DeviceError> {
    ensure_nccl_present()?;
    let id =
        nccl::get_uniqueid().map_err(|error| nccl_error("cannot invite other cards", &error))?;
    Ok(id
        .internal
        .iter()
        .map(|byte| byte.cast_unsigned())
        .collect())
}

fn ensure_nccl_present() -> Result<(), DeviceError> {
    // SAFETY: loads NVIDIA's library, which does nothing when loaded, and lets go of it.
    if unsafe { nccl_sys::is_culib_present() } {
        return Ok(());
    }

    let found = "the loader finds no libnccl.so; the image trainer-cuda has it";
    Err(DeviceError::failed("cannot reach other cards", found))
}

/// A GPU's communicator.
pub(super) struct NcclCommunicator {
    communicator: RawHandle<nccl_sys::ncclComm>,
    /// The stream of the computation, which the GPU keeps.
    compute_stream: RawHandle<sys::CUstream_st>,
    comm_stream: RawHandle<sys::CUstream_st>,
    /// Recorded on one stream and waited for on the other, then used again.
    event: Mutex<RawHandle<sys::CUevent_st>>,
    aborted: AtomicBool,
}

impl NcclCommunicator {
    /// Waits for all that were invited. The GPU's context must be this thread's.
    ///
    /// # Errors
    /// If they do not find one another.
    pub(super) fn init_rank(
        invitation: &[u8],
        rank: usize,
        count: usize,
        compute_stream: sys::CUstream,
    ) -> Result<Self, DeviceError> {
        ensure_nccl_present()?;
        let doing = "cannot reach other cards";
        let internal: [u8; 128] = invitation
            .try_into()
            .map_err(|_| DeviceError::failed(doing, "the invitation is not one of NCCL's"))?;

        let id = nccl_sys::ncclUniqueId {
            internal: internal.map(u8::cast_signed),
        };

        let comm_stream = stream::create(stream::StreamKind::NonBlocking)
            .map_err(|error| to_device_error("cannot make a stream", error))?;
        // Without timing: the event only orders streams, and is cheaper to record.
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|error| to_device_error("cannot make an event", error))?;
        let mut communicator = std::ptr::null_mut();

        // SAFETY: writes one pointer; the context of the GPU is current.
        let joined =
            unsafe { nccl::comm_init_rank(&raw mut communicator, count as i32, id, rank as i32) };

        joined.map_err(|error| nccl_error(doing, &error))?;
        Ok(Self {
            communicator: RawHandle(communicator),
            compute_stream: RawHandle(compute_stream),
            comm_stream: RawHandle(comm_stream),
            event: Mutex::new(RawHandle(event)),
            aborted: AtomicBool::new(false),
        })
    }

    /// Makes the following work of one stream wait for the work so far of the other.
    ///
    /// The lock is held from the record to the wait: in between another thread must not record the same event.
    fn stream_wait_stream(
        &self,
        from: sys::CUstream,
        to: sys::CUstream,
    ) -> Result<(), DeviceError> {
        let event = lock_ignoring_poison(&self.event);
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: streams and event are kept until this is dropped, the GPU's stream longer.
        let passed: Result<(), DriverError> = unsafe {
            result::event::record(event.0, from)
                .and_then(|()| stream::wait_event(to, event.0, flags))
        };

        passed.map_err(|error| to_device_error("cannot order a card's work", error))
    }

    fn run_on_comm_stream(
        &self,
        doing: &str,
        work: impl FnOnce(
            nccl_sys::ncclComm_t,
            nccl_sys::cudaStream_t,
        ) -> Result<nccl::NcclStatus, nccl::NcclError>,
    ) -> Result<(), DeviceError> {
        // Aborting frees NCCL's communicator, which must not be used after it.
        if self.aborted.load(Ordering::Acquire) {
            return Err(DeviceError::failed(doing, "another rank is lost"));
        }

        // The kernels that write these numbers may still be waiting on the other stream.
        self.stream_wait_stream(self.compute_stream.0, self.comm_stream.0)?;
        let done = work(self.communicator.0, self.comm_stream.0.cast());
        done.map(drop).map_err(|error| nccl_error(doing, &error))
    }
}

impl std::fmt::Debug for NcclCommunicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NCCL")
    }
}

impl DeviceCommunicator for NcclCommunicator {
    fn all_reduce_sum(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError> {
        let data = nccl_sys::ncclDataType_t::ncclFloat32;
        let sum = nccl_sys::ncclRedOp_t::ncclSum;
        // SAFETY: the caller's span lies in memory that it holds until the device has done this.
        self.run_on_comm_stream("cannot sum over all cards", |communicator, stream| unsafe {
            nccl::all_reduce(at as _, at as _, count, data, sum, communicator, stream)
        })
    }

    fn all_gather(&self, at: DeviceAddress, part: usize) -> Result<(), DeviceError> {
        let data = nccl_sys::ncclDataType_t::ncclFloat32;
        // SAFETY: as above; a rank's own part lies where NCCL looks for it when it gathers in place.
        self.run_on_comm_stream(
            "cannot gather from all cards",
            |communicator, stream| unsafe {
                let rank = nccl::comm_user_rank(communicator)? as u64;
                let own = at + rank * part as u64 * size_of::<f32>() as u64;
                nccl::all_gather(own as _, at as _, part, data, communicator, stream)
            },
        )
    }

    fn broadcast(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError> {
        let data = nccl_sys::ncclDataType_t::ncclFloat32;
        // SAFETY: as above; NCCL broadcasts in place where both addresses are one.
        self.run_on_comm_stream("cannot send to all cards", |communicator, stream| unsafe {
            nccl::broadcast(at as _, at as _, count, data, 0, communicator, stream)
        })
    }

    fn wait_on_stream(&self) -> Result<(), DeviceError> {
        self.stream_wait_stream(self.comm_stream.0, self.compute_stream.0)
    }

    fn abort(&self) {
        // Called when a rank is lost and again by `drop`: only the first call frees the
        // communicator.
        if !self.aborted.swap(true, Ordering::AcqRel) {
            // SAFETY: once, and nothing is asked of the communicator after it. An error could not be returned.
            let _ = unsafe { nccl::comm_abort(self.communicator.0) };
        }
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        self.abort();
        // SAFETY: made once, and nothing uses them any more. An error could not be returned.
        unsafe {
            let _ = result::event::destroy(lock_ignoring_poison(&self.event).0);
            let _ = stream::destroy(self.comm_stream.0);
        }
    }
}

/// What NCCL answered, as an error.
fn nccl_error(doing: &str, error: &nccl::NcclError) -> DeviceError {
    DeviceError::failed(doing, format!("NCCL answers {:?}", error.0))
}
