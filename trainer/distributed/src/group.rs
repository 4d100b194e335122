//! Brings the devices of all ranks together, and lets nobody wait for one that is lost. What the devices
//! then tell one another does not pass through here.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::Builder;

use super::BEAT;
use super::crew::Own;
use super::fate::Fate;
use crate::error::{Error, Origin, Result};
use cnclip_compute::device::{Device, Fault, Group};

/// Waits until the devices of all ranks were brought together, or a rank is lost.
///
/// # Errors
/// If they do not find one another.
pub(super) fn join(own: Own, device: &Device, invitation: Vec<u8>) -> Result<Arc<Group>> {
    let device = device.clone();
    let seat = (own.seat.rank, own.seat.count);
    let joined = unless_lost(&own.fate, move || Group::join(&device, &invitation, seat));
    let group = Arc::new(joined??);
    let watched = Arc::downgrade(&group);

    spawn(move || watch(&own, &watched))?;
    Ok(group)
}

/// What a thread makes that may wait for others for ever: once one is lost it is left to itself.
fn unless_lost<T: Send + 'static>(
    fate: &Fate,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<Result<T, Fault>> {
    let (done, made) = sync_channel(1);
    // Whoever waited may be gone.
    spawn(move || drop(done.send(work())))?;

    loop {
        match made.recv_timeout(BEAT) {
            Ok(made) => return Ok(made),
            Err(RecvTimeoutError::Timeout) => fate.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Bug("the thread that joins devices died".into()));
            }
        }
    }
}

/// Ends what waits on a device as soon as a rank is lost, and lets the others hear of it as soon as the
/// device of this one does nothing more: its rank may wait for them while they wait for the device.
fn watch(own: &Own, group: &Weak<Group>) {
    loop {
        own.fate.wait(BEAT);
        let Some(group) = group.upgrade() else { return };
        if own.fate.lost() {
            return group.give_up();
        }

        if let Some(fault) = group.fault() {
            own.end(Origin::Device, &fault.to_string());
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = Builder::new().name("devices".into()).spawn(work);
    spawned
        .map(drop)
        .map_err(|error| Error::Bug(format!("no thread to look after devices: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::fate::{How, Loss};
    use super::*;

    #[test]
    fn nobody_waits_for_ranks_that_are_lost() {
        let fate = Fate::default();
        assert_eq!(unless_lost(&fate, || Ok(7)).unwrap(), Ok(7));
        fate.lose(Loss {
            worker: 1,
            ranks: 1..2,
            step: 0,
            how: How::Gone,
        });

        let start = Instant::now();
        let forever = || {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(())
        };

        assert!(matches!(unless_lost(&fate, forever), Err(Error::Lost(_))));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
