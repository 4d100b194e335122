//! Collectives between the devices of all ranks, which bypass host memory.

use std::sync::Arc;

use super::{DType, Device, DeviceAddress, DeviceError, DeviceViewMut};

/// A device's communicator. Collectives are asynchronous: they start when the device has finished its work so
/// far, and overlap with the work that follows.
///
/// All ranks must call the same functions with as many numbers, in the same order.
pub trait DeviceCommunicator: std::fmt::Debug + Send + Sync {
    /// All-reduce of fp32 numbers by sum.
    ///
    /// # Errors
    /// If it cannot.
    fn all_reduce_sum(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError>;
    /// All-gather of fp32 numbers in place: `part` of each rank, in the order of the ranks.
    ///
    /// # Errors
    /// If it cannot.
    fn all_gather(&self, at: DeviceAddress, part: usize) -> Result<(), DeviceError>;
    /// Broadcast of the fp32 numbers of rank 0, in place.
    ///
    /// # Errors
    /// If it cannot.
    fn broadcast(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError>;
    /// Makes the device's following work wait for all collectives so far.
    ///
    /// # Errors
    /// If it cannot.
    fn wait_on_stream(&self) -> Result<(), DeviceError>;
    /// Aborts collectives that wait for ranks that are lost.
    fn abort(&self);
}

/// A device and its communicator.
#[derive(Clone, Debug)]
pub struct DeviceGroup {
    // Fields are dropped in their order: the communicator uses the device until then.
    communicator: Arc<dyn DeviceCommunicator>,
    device: Device,
    world_size: usize,
}

impl DeviceGroup {
    /// Joins the communicator with an id, and waits for all ranks.
    ///
    /// # Errors
    /// If they cannot be reached.
    pub fn join_group(
        device: &Device,
        id: &[u8],
        rank: usize,
        world_size: usize,
    ) -> Result<Self, DeviceError> {
        // The error is returned and not kept: without a communicator the rank must not start at
        // all.
        let communicator = device.0.driver.join_communicator(id, rank, world_size)?;
        Ok(Self {
            device: device.clone(),
            communicator: communicator.into(),
            world_size,
        })
    }

    /// All-reduce by sum; before the sums are used, call [`DeviceGroup::wait_on_stream`].
    pub fn all_reduce_sum(&self, numbers: &mut DeviceViewMut<'_>) {
        let (at, count) = Self::address_and_len(numbers);
        self.device
            .run_unless_failed(|_| self.communicator.all_reduce_sum(at, count));
    }

    /// All-gather in place: each rank brings an equal part, in the order of the ranks.
    pub fn all_gather(&self, numbers: &mut DeviceViewMut<'_>) {
        let (at, count) = Self::address_and_len(numbers);
        assert!(
            count.is_multiple_of(self.world_size),
            "ranks have unequal parts"
        );
        self.device
            .run_unless_failed(|_| self.communicator.all_gather(at, count / self.world_size));
        // Gathered numbers are needed by the next operation: there is no work to overlap with.
        self.wait_on_stream();
    }

    /// Broadcast of the numbers of rank 0, to their bfloat16 copies too.
    pub fn broadcast(&self, numbers: &mut DeviceViewMut<'_>) {
        let (at, count) = Self::address_and_len(numbers);
        self.device
            .run_unless_failed(|_| self.communicator.broadcast(at, count));
        self.wait_on_stream();
        numbers.update_bf16_copy();
    }

    /// Makes the device's following work wait for all collectives so far.
    pub fn wait_on_stream(&self) {
        self.device
            .run_unless_failed(|_| self.communicator.wait_on_stream());
    }

    /// The first error of this rank's device that is known so far.
    pub fn first_error(&self) -> Option<DeviceError> {
        self.device.first_error()
    }

    /// Aborts collectives that wait for ranks that are lost.
    pub fn abort(&self) {
        // Also after an error, which is when it is called: hence not by way of `run_unless_failed`.
        self.communicator.abort();
    }

    fn address_and_len(numbers: &DeviceViewMut<'_>) -> (DeviceAddress, usize) {
        let span = numbers.as_view();
        assert!(
            span.dtype() == DType::F32,
            "collectives are of fp32 numbers"
        );

        (span.address(), span.len())
    }
}
