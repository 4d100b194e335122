//! Memory with a fence on either side of every allocation.

use std::alloc::Layout;
use std::collections::BTreeMap;

use cnclip_compute::device::{DeviceAddress, DeviceError};
use half::bf16;

/// Bytes of a fence.
const GUARD_BYTES: usize = 4096;

/// What lies in fences and in memory that was not written: no number in any format.
const UNINITIALIZED_BYTE: u8 = 0xff;

/// What the output of a broken kernel is multiplied with: more than bf16 rounds by.
const PERTURBATION: f32 = 1.02;

/// Bytes of whole allocations, by their address.
pub(crate) type AllocationSnapshot = BTreeMap<DeviceAddress, Vec<u8>>;

/// What is allocated.
#[derive(Debug)]
pub(crate) struct EmulatedMemory {
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// Bytes of the free ones that are not.
    foreign_bytes: u64,
    /// Bytes at each address.
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
        // SAFETY: the layout has a size, that of its fences.
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

    /// The bytes of the allocations that pointers lie in.
    pub(crate) fn snapshot_allocations(&self, pointers: &[DeviceAddress]) -> AllocationSnapshot {
        let allocations = pointers
            .iter()
            .filter_map(|&at| self.find_allocation(at, 0).ok());

        allocations
            .filter_map(|(start, size)| Some((start, self.read_bytes(start, size).ok()?.to_vec())))
            .collect()
    }

    /// Makes every number that differs from a snapshot larger in magnitude.
    pub(crate) fn perturb_changes(&mut self, before: &AllocationSnapshot, is_bf16: bool) {
        for (&start, old) in before {
            let Ok(new) = self.bytes_mut(start, old.len()) else {
                continue;
            };

            if is_bf16 {
                let numbers = new.as_chunks_mut().0.iter_mut().zip(old.as_chunks().0);
                numbers
                    .filter(|(new, old)| new != old)
                    .for_each(|(new, _)| {
                        let value = bf16::from_ne_bytes(*new).to_f32();
                        *new = bf16::from_f32(PERTURBATION * value).to_ne_bytes();
                    });
            } else {
                let numbers = new.as_chunks_mut().0.iter_mut().zip(old.as_chunks().0);
                numbers
                    .filter(|(new, old)| new != old)
                    .for_each(|(new, _)| {
                        *new = (PERTURBATION * f32::from_ne_bytes(*new)).to_ne_bytes();
                    });
            }
        }
    }

    /// Whether nothing was written around the allocation at an address.
    pub(crate) fn are_guards_intact(&self, at: DeviceAddress) -> bool {
        let Ok((start, size)) = self.find_allocation(at, 0) else {
            return false;
        };

        [start as usize - GUARD_BYTES, start as usize + size]
            .iter()
            .all(|&fence| {
                // SAFETY: every allocation has a fence of so many bytes before and behind it.
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
