//! Brings the devices of all ranks together, and lets nobody wait for one that is lost. What the devices
//! then tell one another does not pass through here.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::Builder;

use super::HEARTBEAT_INTERVAL;
use super::abort_state::AbortState;
use super::local_ranks::FailureReporter;
use crate::error::{Error, Origin, Result};
use cnclip_compute::device::{Device, DeviceError, DeviceGroup};

/// Waits until the devices of all ranks were brought together, or a rank is lost.
///
/// # Errors
/// If they do not find one another.
pub(super) fn join_device_group(
    own: FailureReporter,
    device: &Device,
    invitation: Vec<u8>,
) -> Result<Arc<DeviceGroup>> {
    let device = device.clone();
    let seat = (own.topology.rank, own.topology.world_size);
    let joined = run_unless_lost(&own.abort_state, move || {
        DeviceGroup::join_group(&device, &invitation, seat)
    });
    let group = Arc::new(joined??);
    let watched = Arc::downgrade(&group);

    spawn_thread(move || watch_device_group(&own, &watched))?;
    Ok(group)
}

/// What a thread makes that may wait for others for ever: once one is lost it is left to itself.
fn run_unless_lost<T: Send + 'static>(
    fate: &AbortState,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<Result<T, DeviceError>> {
    let (done, made) = sync_channel(1);
    // Whoever waited may be gone.
    spawn_thread(move || drop(done.send(work())))?;

    loop {
        match made.recv_timeout(HEARTBEAT_INTERVAL) {
            Ok(made) => return Ok(made),
            Err(RecvTimeoutError::Timeout) => fate.check_lost()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Bug("the thread that joins devices died".into()));
            }
        }
    }
}

/// Ends what waits on a device as soon as a rank is lost, and lets the others hear of it as soon as the
/// device of this one does nothing more: its rank may wait for them while they wait for the device.
fn watch_device_group(own: &FailureReporter, group: &Weak<DeviceGroup>) {
    loop {
        own.abort_state.wait_for_loss(HEARTBEAT_INTERVAL);
        let Some(group) = group.upgrade() else { return };
        if own.abort_state.is_lost() {
            return group.abort();
        }

        if let Some(fault) = group.first_error() {
            own.report_failure(Origin::Device, &fault.to_string());
        }
    }
}

fn spawn_thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = Builder::new().name("devices".into()).spawn(work);
    spawned
        .map(drop)
        .map_err(|error| Error::Bug(format!("no thread to look after devices: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::abort_state::{LossCause, WorkerLost};
    use super::*;

    #[test]
    fn nobody_waits_for_ranks_that_are_lost() {
        let fate = AbortState::default();
        assert_eq!(run_unless_lost(&fate, || Ok(7)).unwrap(), Ok(7));
        fate.record_loss(WorkerLost {
            worker: 1,
            ranks: 1..2,
            step: 0,
            how: LossCause::Gone,
        });

        let start = Instant::now();
        let forever = || {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(())
        };

        assert!(matches!(
            run_unless_lost(&fate, forever),
            Err(Error::Lost(_))
        ));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
