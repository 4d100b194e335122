//! The devices of other ranks, reached without the memory of any machine.

use std::sync::Arc;

use super::{DType, Device, DeviceAddress, DeviceError, DeviceViewMut};

/// What a device's own way to the others can do. Calls return before they are carried out: once the device
/// is done with what it was asked for so far, and beside what it is asked for next.
///
/// # Guarantees
/// It works where all ranks call the same functions with as many numbers, in the same order.
pub trait DeviceCommunicator: std::fmt::Debug + Send + Sync {
    /// Makes fp32 numbers their sums over all ranks.
    ///
    /// # Errors
    /// If it cannot.
    fn all_reduce_sum(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError>;
    /// Fills in the fp32 numbers of the others: `part` of each rank, in the order of the ranks.
    ///
    /// # Errors
    /// If it cannot.
    fn all_gather(&self, at: DeviceAddress, part: usize) -> Result<(), DeviceError>;
    /// Lets what the device is asked for next wait for all of that.
    ///
    /// # Errors
    /// If it cannot.
    fn wait_on_stream(&self) -> Result<(), DeviceError>;
    /// Ends what waits for ranks that will never come.
    fn abort(&self);
}

/// A device among those of the other ranks.
#[derive(Clone, Debug)]
pub struct DeviceGroup {
    // Dropped before the device.
    communicator: Arc<dyn DeviceCommunicator>,
    device: Device,
    count: usize,
}

impl DeviceGroup {
    /// Joins those who were given the same invitation, and waits for all of them.
    ///
    /// # Errors
    /// If they cannot be reached.
    pub fn join_group(
        device: &Device,
        invitation: &[u8],
        (rank, count): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let peers = device.0.driver.join_communicator(invitation, rank, count)?;
        Ok(Self {
            device: device.clone(),
            communicator: peers.into(),
            count,
        })
    }

    /// Makes numbers their sums over all ranks; whoever needs them calls [`Group::settle`] first.
    pub fn all_reduce_sum(&self, numbers: &mut DeviceViewMut<'_>) {
        let (at, count) = Self::address_and_len(numbers);
        self.device
            .run_unless_failed(|_| self.communicator.all_reduce_sum(at, count));
    }

    /// Fills in the numbers of the others: each rank brings an equal part, in the order of the ranks.
    pub fn all_gather(&self, numbers: &mut DeviceViewMut<'_>) {
        let (at, count) = Self::address_and_len(numbers);
        assert!(count.is_multiple_of(self.count), "ranks have equal parts");
        self.device
            .run_unless_failed(|_| self.communicator.all_gather(at, count / self.count));
        self.wait_on_stream();
    }

    /// Lets what the device is asked for next wait for everything that travels.
    pub fn wait_on_stream(&self) {
        self.device
            .run_unless_failed(|_| self.communicator.wait_on_stream());
    }

    /// What went wrong first on this rank's own device, as far as it is known.
    pub fn first_error(&self) -> Option<DeviceError> {
        self.device.first_error()
    }

    /// Ends what waits for ranks that will never come.
    pub fn abort(&self) {
        self.communicator.abort();
    }

    fn address_and_len(numbers: &DeviceViewMut<'_>) -> (DeviceAddress, usize) {
        let span = numbers.as_view();
        assert!(
            span.dtype() == DType::F32,
            "numbers travel between ranks in fp32"
        );

        (span.address(), span.len())
    }
}
