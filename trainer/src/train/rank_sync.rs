//! What the ranks of a run exchange besides tensors: after each step whether to stop, which samples were
//! skipped and how long each waited; before it the fingerprints of a batch. Never what a step computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use cnclip_compute::collective::Collective;
use cnclip_compute::digest::Fingerprint;
use cnclip_data::loader::DataLoader;
use cnclip_distributed::{Communicator, GradientBuckets, StragglerDetector};

/// A rank's connection to the others, with the buffers of what they exchange.
#[derive(Debug)]
pub(super) struct RankSync {
    communicator: Arc<Communicator>,
    buckets: GradientBuckets,
    /// Those of a whole global batch.
    fingerprints: Vec<Fingerprint>,
    /// Of each rank: whether to stop, how many samples it skipped, the seconds that it waited.
    rank_values: Vec<f64>,
    straggler_detector: StragglerDetector,
    last_sync: Instant,
    waited: Duration,
}

/// Numbers that each rank sends after a step.
const VALUES_PER_RANK: usize = 3;

impl RankSync {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(communicator: Arc<Communicator>, global_batch: usize) -> Result<Self> {
        let count = communicator.world_size();
        let buckets = communicator.gradient_buckets()?;
        Ok(Self {
            communicator,
            buckets,
            fingerprints: vec![Fingerprint { image: 0, text: 0 }; global_batch],
            rank_values: vec![0.0; VALUES_PER_RANK * count],
            straggler_detector: StragglerDetector::new(count),
            last_sync: Instant::now(),
            waited: Duration::ZERO,
        })
    }

    /// The connection to the other ranks.
    pub(super) fn communicator(&self) -> &Arc<Communicator> {
        &self.communicator
    }

    /// The buckets in which gradients are summed over all ranks.
    pub(super) fn gradient_buckets(&mut self) -> &mut GradientBuckets {
        &mut self.buckets
    }

    /// The fingerprints of the whole global batch, given this rank's.
    pub(super) fn gather_fingerprints(&mut self, own: &[Fingerprint]) -> &[Fingerprint] {
        let all = &mut self.fingerprints[..own.len() * self.communicator.world_size()];
        let place = self.communicator.rank_range(all.len());
        all[place].copy_from_slice(own);
        self.communicator.all_gather(all);

        all
    }

    /// How long this rank waited for others so far.
    pub(super) fn wait_time(&self) -> Duration {
        self.communicator.wait_time() + self.buckets.wait_time()
    }

    /// Whether any rank was asked to stop: all get the same answer after the same step.
    ///
    /// # Errors
    /// If a rank is lost, or all together skipped too many samples.
    pub(super) fn sync_stop(&mut self, stop: bool, loader: &DataLoader) -> Result<bool> {
        let skipped = loader.take_unreported();
        let waited = self.wait_time();
        let recently_waited = (waited - self.waited).as_secs_f64();
        self.waited = waited;

        let first = self.communicator.rank() * VALUES_PER_RANK;
        // All as f64: a collective has one element type, and counts are exact below 2^53.
        self.rank_values[first..first + VALUES_PER_RANK].copy_from_slice(&[
            f64::from(u8::from(stop)),
            skipped.len() as f64,
            recently_waited,
        ]);

        // One collective a step for all three: its latency is what counts, not its bytes.
        self.communicator.all_gather(&mut self.rank_values);
        self.communicator.check_peers()?;

        // The names of skipped samples differ in length, so they take a second exchange, which is rare.
        if self.values_by_rank(1).sum::<f64>() > 0.0 {
            loader.merge_reported(&self.communicator.all_gather_varlen(&skipped)?.concat())?;
        }

        self.detect_straggler();
        Ok(self.values_by_rank(0).any(|stop| stop > 0.0))
    }

    fn detect_straggler(&mut self) {
        let seconds = self.last_sync.elapsed().as_secs_f64();
        self.last_sync = Instant::now();
        let waited = self
            .rank_values
            .iter()
            .skip(2)
            .step_by(VALUES_PER_RANK)
            .copied();
        // All ranks find the same straggler; one line in the run's logs is enough.
        if let Some(slowest) = self.straggler_detector.record_waits(waited, seconds)
            && self.communicator.is_rank_zero()
        {
            let worker = self.communicator.worker_of_rank(slowest.rank);
            tracing::warn!(
                rank = slowest.rank,
                worker,
                "rank {} (worker {worker}) holds up the others: in {:.0} s they waited {:.0} s longer than it",
                slowest.rank,
                slowest.window_seconds,
                slowest.extra_wait_seconds,
            );
        }
    }

    /// One of the numbers, by rank.
    fn values_by_rank(&self, which: usize) -> impl Iterator<Item = f64> {
        self.rank_values
            .iter()
            .skip(which)
            .step_by(VALUES_PER_RANK)
            .copied()
    }
}
