//! The devices of other ranks, reached without the memory of any machine.

use std::sync::Arc;

use super::{Address, Device, Fault, Format, SpanMut};

/// What a device's own way to the others can do. Calls return before they are carried out: once the device
/// is done with what it was asked for so far, and beside what it is asked for next.
///
/// # Guarantees
/// It works where all ranks call the same functions with as many numbers, in the same order.
pub trait Peers: std::fmt::Debug + Send + Sync {
    /// Makes fp32 numbers their sums over all ranks.
    ///
    /// # Errors
    /// If it cannot.
    fn sum(&self, at: Address, count: usize) -> Result<(), Fault>;
    /// Fills in the fp32 numbers of the others: `part` of each rank, in the order of the ranks.
    ///
    /// # Errors
    /// If it cannot.
    fn gather(&self, at: Address, part: usize) -> Result<(), Fault>;
    /// Lets what the device is asked for next wait for all of that.
    ///
    /// # Errors
    /// If it cannot.
    fn settle(&self) -> Result<(), Fault>;
    /// Ends what waits for ranks that will never come.
    fn give_up(&self);
}

/// A device among those of the other ranks.
#[derive(Clone, Debug)]
pub struct Group {
    // Dropped before the device.
    peers: Arc<dyn Peers>,
    device: Device,
    count: usize,
}

impl Group {
    /// Joins those who were given the same invitation, and waits for all of them.
    ///
    /// # Errors
    /// If they cannot be reached.
    pub fn join(
        device: &Device,
        invitation: &[u8],
        (rank, count): (usize, usize),
    ) -> Result<Self, Fault> {
        let peers = device.0.driver.join(invitation, rank, count)?;
        Ok(Self {
            device: device.clone(),
            peers: peers.into(),
            count,
        })
    }

    /// Makes numbers their sums over all ranks; whoever needs them calls [`Group::settle`] first.
    pub fn sum(&self, numbers: &mut SpanMut<'_>) {
        let (at, count) = Self::place(numbers);
        self.device.run(|_| self.peers.sum(at, count));
    }

    /// Fills in the numbers of the others: each rank brings an equal part, in the order of the ranks.
    pub fn gather(&self, numbers: &mut SpanMut<'_>) {
        let (at, count) = Self::place(numbers);
        assert!(count.is_multiple_of(self.count), "ranks have equal parts");
        self.device
            .run(|_| self.peers.gather(at, count / self.count));
        self.settle();
    }

    /// Lets what the device is asked for next wait for everything that travels.
    pub fn settle(&self) {
        self.device.run(|_| self.peers.settle());
    }

    /// What went wrong first on this rank's own device, as far as it is known.
    pub fn fault(&self) -> Option<Fault> {
        self.device.fault()
    }

    /// Ends what waits for ranks that will never come.
    pub fn give_up(&self) {
        self.peers.give_up();
    }

    fn place(numbers: &SpanMut<'_>) -> (Address, usize) {
        let span = numbers.span();
        assert!(
            span.format() == Format::F32,
            "numbers travel between ranks in fp32"
        );

        (span.address(), span.len())
    }
}
