//! A checkpoint on its way into the store, and whether it is worth waiting for when the run has to end.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cnclip_data::store::Cancellation;

use super::WrittenCheckpoint;
use crate::error::{Error, Result};

/// The thread that writes a checkpoint.
#[derive(Debug)]
pub(super) struct CheckpointUpload {
    /// Steps completed in it.
    pub(super) step: u64,
    pub(super) began: Instant,
    /// Ends all its requests to the store.
    pub(super) cancellation: Cancellation,
    pub(super) thread: JoinHandle<Result<WrittenCheckpoint>>,
}

impl CheckpointUpload {
    /// Whether its outcome is known.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the outcome.
    pub(super) fn join(self) -> Result<WrittenCheckpoint> {
        let panicked = |_| Error::Bug("the thread that wrote a checkpoint panicked".into());
        self.thread.join().map_err(panicked)?
    }
}

/// Whether to abandon the upload of an older state because the newest has to be saved within `grace`. `elapsed` is how
/// long the upload takes so far, `usual` how long the last one took, if there was one.
pub(super) fn is_worth_abandoning(
    elapsed: Duration,
    usual: Option<Duration>,
    grace: Duration,
) -> bool {
    match usual {
        // Both can be saved one after the other: the older is a reserve if the newest fails.
        Some(usual) if elapsed <= usual && usual - elapsed + usual <= grace => false,
        // As far as is known, the newest can be saved alone.
        Some(usual) => usual <= grace,
        // An upload that took longer than there is time now would not end a second time either.
        None => elapsed <= grace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_upload_is_abandoned_where_only_then_the_newest_can_be_saved() {
        let table = [
            // Elapsed, usual, expected with 120 s of grace.
            (0, Some(60), false),
            (59, Some(60), false),
            (0, Some(61), true),
            (5, Some(61), false),
            // Slower than usual: its end is not in sight.
            (61, Some(60), true),
            (0, Some(120), true),
            (100, Some(120), true),
            // Longer than there is time: the older one has the better chance.
            (10, Some(121), false),
            (3, None, true),
            (121, None, false),
        ];

        for (elapsed, usual, expected) in table {
            let found = is_worth_abandoning(
                Duration::from_secs(elapsed),
                usual.map(Duration::from_secs),
                Duration::from_secs(120),
            );

            assert_eq!(found, expected, "{elapsed} s of {usual:?}");
        }
    }
}
