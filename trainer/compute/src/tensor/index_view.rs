//! Indices that an operation reads: token ids, patches.

use super::panic_mixed_memories;
use crate::device::DeviceView;

/// Indices in host memory, with a copy in a device's memory if a device computes.
#[derive(Clone, Copy, Debug)]
pub struct IndexView<'a> {
    host_indices: &'a [u32],
    device_view: Option<DeviceView<'a>>,
}

impl<'a> IndexView<'a> {
    /// The same indices with a copy on a device, if there is one.
    pub fn with_device_view(self, device_view: Option<DeviceView<'a>>) -> Self {
        Self {
            device_view,
            ..self
        }
    }

    /// The indices in host memory.
    pub fn expect_host(self) -> &'a [u32] {
        self.host_indices
    }

    /// The indices in a device's memory.
    ///
    /// # Panics
    /// If there is no copy.
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
