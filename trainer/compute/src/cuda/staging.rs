//! Uploads through page-locked memory: the GPU reads it by DMA while the caller goes on, and the caller may overwrite
//! its own memory at once.

use std::ffi::c_void;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::context::{RawHandle, to_device_error};
use crate::device::{DeviceAddress, DeviceError};

/// Bytes of a page.
const PAGE_BYTES: usize = 8 << 20;
const PAGE_COUNT: usize = 8;
/// Uploads begin at multiples of this.
const UPLOAD_ALIGNMENT: usize = 256;

/// A ring of pages; one is filled again when the GPU has read it, so that at most 64 MiB are in flight.
pub(super) struct StagingBuffers {
    pages: Vec<StagingPage>,
    current: usize,
}

struct StagingPage {
    memory: RawHandle<c_void>,
    /// Recorded after the copies of the page.
    read: RawHandle<sys::CUevent_st>,
    used: usize,
}

impl StagingBuffers {
    /// Empty pages for the GPU of this thread.
    pub(super) fn new() -> Result<Self, DeviceError> {
        let pages = (0..PAGE_COUNT)
            .map(|_| StagingPage::new())
            .collect::<Result<_, _>>();
        pages
            .map(|pages| Self { pages, current: 0 })
            .map_err(copy_error)
    }

    /// Copies bytes, and has the stream copy them on to the GPU.
    pub(super) fn copy_to_device(
        &mut self,
        bytes: &[u8],
        to: DeviceAddress,
        stream: sys::CUstream,
    ) -> Result<(), DeviceError> {
        let mut sent = 0;
        while sent < bytes.len() {
            // A page serves uploads until it is full: an event for each small one would cost more.
            if self.pages[self.current].used == PAGE_BYTES {
                self.advance_page(stream).map_err(copy_error)?;
            }

            let page = &mut self.pages[self.current];
            let count = (bytes.len() - sent).min(PAGE_BYTES - page.used);
            page.copy_async(&bytes[sent..sent + count], to + sent as u64, stream)
                .map_err(copy_error)?;
            sent += count;
        }

        Ok(())
    }

    /// Goes on to the next page, after the GPU has read it.
    fn advance_page(&mut self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: event and stream live as long as the GPU.
        unsafe { result::event::record(self.pages[self.current].read.0, stream)? };
        self.current = (self.current + 1) % PAGE_COUNT;
        let next = &mut self.pages[self.current];
        // SAFETY: as above; one that was never recorded has come.
        unsafe { result::event::synchronize(next.read.0)? };
        next.used = 0;

        Ok(())
    }
}

impl StagingPage {
    fn new() -> Result<Self, DriverError> {
        // SAFETY: both are given back when the page is dropped.
        let memory = RawHandle(unsafe { result::malloc_host(PAGE_BYTES, 0)? });
        let read = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Self {
            memory,
            read: RawHandle(read),
            used: 0,
        })
    }

    fn copy_async(
        &mut self,
        bytes: &[u8],
        to: DeviceAddress,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        // SAFETY: the page holds PAGE bytes, of which those from `used` on are not read by the GPU, and
        // there is room for these. No other reference into it exists.
        let place = unsafe {
            let start = self.memory.0.cast::<u8>().add(self.used);
            std::slice::from_raw_parts_mut(start, bytes.len())
        };

        place.copy_from_slice(bytes);
        self.used = (self.used + bytes.len())
            .next_multiple_of(UPLOAD_ALIGNMENT)
            .min(PAGE_BYTES);

        // SAFETY: the place is not written again before the GPU has read it.
        unsafe { result::memcpy_htod_async(to, place, stream) }
    }
}

impl Drop for StagingPage {
    fn drop(&mut self) {
        // SAFETY: both were made once, and the GPU waits no more. An error could not be returned.
        unsafe {
            let _ = result::free_host(self.memory.0);
            let _ = result::event::destroy(self.read.0);
        }
    }
}

fn copy_error(error: DriverError) -> DeviceError {
    to_device_error("cannot copy to a card", error)
}
