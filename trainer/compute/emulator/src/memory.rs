//! Memory with a fence on either side of every allocation.

use std::alloc::Layout;
use std::collections::BTreeMap;

use cnclip_compute::device::{Address, Fault};

/// Bytes of a fence.
const FENCE: usize = 4096;

/// What lies in fences and in memory that was not written: no number in any format.
const NOTHING: u8 = 0xff;

/// What is allocated.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) free: u64,
    pub(crate) all: u64,
    /// Bytes of the free ones that are not.
    taken: u64,
    /// Bytes at each address.
    lent: BTreeMap<Address, usize>,
}

impl Memory {
    pub(crate) fn new(all: u64, taken: u64) -> Self {
        Self {
            free: all,
            all,
            taken,
            lent: BTreeMap::new(),
        }
    }

    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Address, Fault> {
        let wanted = bytes as u64;
        if wanted + self.taken > self.free {
            return Err(Fault::OutOfMemory {
                wanted,
                free: self.free,
                all: self.all,
            });
        }

        let layout = layout(bytes)?;
        // SAFETY: the layout has a size, that of its fences.
        let start = unsafe { std::alloc::alloc(layout) };

        if start.is_null() {
            return Err(Fault::OutOfMemory {
                wanted,
                free: self.free,
                all: self.all,
            });
        }

        // SAFETY: the memory was just made, and is as large as its layout.
        unsafe { start.write_bytes(NOTHING, layout.size()) };
        self.free -= wanted;
        let at = start as Address + FENCE as Address;
        self.lent.insert(at, bytes);

        Ok(at)
    }

    pub(crate) fn release(&mut self, at: Address) {
        let Some(bytes) = self.lent.remove(&at) else {
            return;
        };

        self.free += bytes as u64;
        if let Ok(layout) = layout(bytes) {
            // SAFETY: it was allocated here with this layout, and is forgotten now.
            unsafe { std::alloc::dealloc((at as usize - FENCE) as *mut u8, layout) };
        }
    }

    /// Bytes that lie in one allocation.
    pub(crate) fn read(&self, at: Address, bytes: usize) -> Result<&[u8], Fault> {
        self.find(at, bytes)?;
        // SAFETY: they lie in memory that is lent, was written when it was made, and stays until `self`
        // is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts(at as usize as *const u8, bytes) })
    }

    /// Bytes that lie in one allocation, to be written.
    pub(crate) fn write(&mut self, at: Address, bytes: usize) -> Result<&mut [u8], Fault> {
        self.find(at, bytes)?;
        // SAFETY: as in `read`, and `self` is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(at as usize as *mut u8, bytes) })
    }

    /// The allocation that bytes lie in.
    fn find(&self, at: Address, bytes: usize) -> Result<(Address, usize), Fault> {
        let found = self
            .lent
            .range(..=at)
            .next_back()
            .map(|(&start, &size)| (start, size));

        found
            .filter(|(start, size)| at + bytes as u64 <= start + *size as u64)
            .ok_or_else(|| Fault::broken(format!("{bytes} bytes at {at:#x}"), "are in no memory"))
    }

    /// Whether nothing was written around the allocation at an address.
    pub(crate) fn is_fenced(&self, at: Address) -> bool {
        let Ok((start, size)) = self.find(at, 0) else {
            return false;
        };

        [start as usize - FENCE, start as usize + size]
            .iter()
            .all(|&fence| {
                // SAFETY: every allocation has a fence of so many bytes before and behind it.
                let fence = unsafe { std::slice::from_raw_parts(fence as *const u8, FENCE) };
                fence.iter().all(|byte| *byte == NOTHING)
            })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for at in self.lent.keys().copied().collect::<Vec<_>>() {
            self.release(at);
        }
    }
}

fn layout(bytes: usize) -> Result<Layout, Fault> {
    Layout::from_size_align(bytes + 2 * FENCE, FENCE)
        .map_err(|error| Fault::broken(format!("{bytes} bytes of memory"), error))
}
