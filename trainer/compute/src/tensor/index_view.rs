//! Whole numbers that an operation reads: ids, places, patches.

use super::panic_mixed_memories;
use crate::device::DeviceView;

/// Whole numbers, which this machine always knows, and a device where it is the one that computes.
#[derive(Clone, Copy, Debug)]
pub struct IndexView<'a> {
    host_indices: &'a [u32],
    device_view: Option<DeviceView<'a>>,
}

impl<'a> IndexView<'a> {
    /// The same numbers, known on a device, too, if it is given where.
    pub fn with_device_view(self, place: Option<DeviceView<'a>>) -> Self {
        Self {
            device_view: place,
            ..self
        }
    }

    /// The numbers of an operation that this machine computes.
    pub fn expect_host(self) -> &'a [u32] {
        self.host_indices
    }

    /// The numbers of an operation that a device computes.
    pub fn expect_device(self) -> DeviceView<'a> {
        self.device_view.unwrap_or_else(|| panic_mixed_memories())
    }
}

impl<'a> From<&'a [u32]> for IndexView<'a> {
    fn from(numbers: &'a [u32]) -> Self {
        Self {
            host_indices: numbers,
            device_view: None,
        }
    }
}
