//! Connects the devices of all ranks in a group with collectives of its own, and aborts that when a rank
//! fails. Data that devices exchange does not pass through here.
//!
//! A collective on devices has no timeout: it waits on the device until all ranks have called it. So a
//! thread watches for failures, and aborts the group.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::Builder;

use cnclip_compute::device::{Device, DeviceError, DeviceGroup};

use crate::abort_state::AbortState;
use crate::error::{Error, Origin, Result};
use crate::failure_reporter::FailureReporter;
use crate::topology::HEARTBEAT_INTERVAL;

/// Waits until the devices of all ranks are connected, or a rank fails.
///
/// # Errors
/// If they cannot be connected.
pub(super) fn join_device_group(
    reporter: FailureReporter,
    device: &Device,
    group_id: Vec<u8>,
) -> Result<Arc<DeviceGroup>> {
    let device = device.clone();
    let rank = reporter.topology.rank;
    let world_size = reporter.topology.world_size;
    let joined = run_until_failure(&reporter.abort_state, move || {
        DeviceGroup::join_group(&device, &group_id, rank, world_size)
    });

    let group = Arc::new(joined??);
    // Weak: the watcher must not keep a group alive that training has dropped.
    let watched = Arc::downgrade(&group);
    spawn_thread(move || watch_device_group(&reporter, &watched))?;
    Ok(group)
}

/// The result of work that may block for ever. It runs in a thread, which is abandoned when a rank fails:
/// the call cannot be interrupted, and the process is about to end.
fn run_until_failure<T: Send + 'static>(
    abort_state: &AbortState,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<Result<T, DeviceError>> {
    let (sender, receiver) = sync_channel(1);
    // The receiver may be gone by then.
    spawn_thread(move || drop(sender.send(work())))?;

    loop {
        match receiver.recv_timeout(HEARTBEAT_INTERVAL) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => abort_state.check_failure()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Bug("the thread that joins devices died".into()));
            }
        }
    }
}

/// Aborts the group as soon as a rank fails, and reports an error of this rank's device as soon as there is
/// one. The rank itself may not see it: it may wait for other ranks, which wait for its device.
fn watch_device_group(reporter: &FailureReporter, group: &Weak<DeviceGroup>) {
    loop {
        reporter.abort_state.wait_for_failure(HEARTBEAT_INTERVAL);
        let Some(group) = group.upgrade() else {
            return;
        };

        if reporter.abort_state.has_failure() {
            return group.abort();
        }

        if let Some(error) = group.first_error() {
            reporter.report_failure(Origin::Device, &error.to_string());
        }
    }
}

fn spawn_thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = Builder::new().name("devices".into()).spawn(work);
    spawned
        .map(drop)
        .map_err(|error| Error::Bug(format!("cannot start a thread to watch devices: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::abort_state::{FailureCause, WorkerFailure};

    #[test]
    fn nobody_waits_for_ranks_that_failed() {
        let abort_state = AbortState::default();
        assert_eq!(run_until_failure(&abort_state, || Ok(7)).unwrap(), Ok(7));
        abort_state.record_failure(WorkerFailure {
            worker: 1,
            ranks: 1..2,
            step: 0,
            cause: FailureCause::ConnectionClosed,
        });

        let start = Instant::now();
        let forever = || {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(())
        };

        assert!(matches!(
            run_until_failure(&abort_state, forever),
            Err(Error::WorkerLost(_))
        ));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
