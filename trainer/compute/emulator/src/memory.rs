//! Memory with guard bytes on either side of every allocation.

use std::alloc::Layout;
use std::collections::BTreeMap;

use cnclip_compute::device::{DeviceAddress, DeviceError};

/// Guard bytes on either side: a page, so that also a kernel that is off by a row is detected.
const GUARD_BYTES: usize = 4096;

/// The value of guard bytes and of memory that was not written: NaN in every floating-point format.
const UNINITIALIZED_BYTE: u8 = 0xff;

/// The allocations of a device.
#[derive(Debug)]
pub(crate) struct EmulatedMemory {
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// Bytes that are reported as free and are not.
    foreign_bytes: u64,
    /// Sizes by address.
    allocations: BTreeMap<DeviceAddress, usize>,
}

impl EmulatedMemory {
    pub(crate) fn new(all: u64, taken: u64) -> Self {
        Self {
            free: all,
            total: all,
            foreign_bytes: taken,
            allocations: BTreeMap::new(),
        }
    }

    pub(crate) fn allocate_guarded(&mut self, bytes: usize) -> Result<DeviceAddress, DeviceError> {
        let wanted = bytes as u64;
        if wanted + self.foreign_bytes > self.free {
            return Err(DeviceError::OutOfMemory {
                wanted,
                free: self.free,
                all: self.total,
            });
        }

        let layout = guarded_layout(bytes)?;
        // SAFETY: the layout has a size, that of its guard bytes.
        let start = unsafe { std::alloc::alloc(layout) };

        if start.is_null() {
            return Err(DeviceError::OutOfMemory {
                wanted,
                free: self.free,
                all: self.total,
            });
        }

        // SAFETY: the memory was just made, and is as large as its layout.
        unsafe { start.write_bytes(UNINITIALIZED_BYTE, layout.size()) };
        self.free -= wanted;
        let at = start as DeviceAddress + GUARD_BYTES as DeviceAddress;
        self.allocations.insert(at, bytes);

        Ok(at)
    }

    pub(crate) fn release_guarded(&mut self, at: DeviceAddress) {
        let Some(bytes) = self.allocations.remove(&at) else {
            return;
        };

        self.free += bytes as u64;
        if let Ok(layout) = guarded_layout(bytes) {
            // SAFETY: it was allocated here with this layout, and is forgotten now.
            unsafe { std::alloc::dealloc((at as usize - GUARD_BYTES) as *mut u8, layout) };
        }
    }

    /// Bytes that lie in one allocation.
    pub(crate) fn read_bytes(&self, at: DeviceAddress, bytes: usize) -> Result<&[u8], DeviceError> {
        self.find_allocation(at, bytes)?;
        // SAFETY: they lie in memory that is lent, was written when it was made, and stays until `self`
        // is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts(at as usize as *const u8, bytes) })
    }

    /// Bytes that lie in one allocation, to be written.
    pub(crate) fn bytes_mut(
        &mut self,
        at: DeviceAddress,
        bytes: usize,
    ) -> Result<&mut [u8], DeviceError> {
        self.find_allocation(at, bytes)?;
        // SAFETY: as in `read`, and `self` is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(at as usize as *mut u8, bytes) })
    }

    /// The allocation that bytes lie in.
    fn find_allocation(
        &self,
        at: DeviceAddress,
        bytes: usize,
    ) -> Result<(DeviceAddress, usize), DeviceError> {
        let found = self
            .allocations
            .range(..=at)
            .next_back()
            .map(|(&start, &size)| (start, size));

        found
            .filter(|(start, size)| at + bytes as u64 <= start + *size as u64)
            .ok_or_else(|| {
                DeviceError::failed(format!("{bytes} bytes at {at:#x}"), "are in no memory")
            })
    }

    /// Whether the guard bytes of the allocation at an address are intact.
    pub(crate) fn are_guards_intact(&self, at: DeviceAddress) -> bool {
        let Ok((start, size)) = self.find_allocation(at, 0) else {
            return false;
        };

        [start as usize - GUARD_BYTES, start as usize + size]
            .iter()
            .all(|&fence| {
                // SAFETY: every allocation has guard bytes before and behind it.
                let fence = unsafe { std::slice::from_raw_parts(fence as *const u8, GUARD_BYTES) };
                fence.iter().all(|byte| *byte == UNINITIALIZED_BYTE)
            })
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        for at in self.allocations.keys().copied().collect::<Vec<_>>() {
            self.release_guarded(at);
        }
    }
}

fn guarded_layout(bytes: usize) -> Result<Layout, DeviceError> {
    Layout::from_size_align(bytes + 2 * GUARD_BYTES, GUARD_BYTES)
        .map_err(|error| DeviceError::failed(format!("{bytes} bytes of memory"), error))
}
