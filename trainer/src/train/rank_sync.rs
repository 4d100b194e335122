//! What the ranks of a run tell each other after each step: whether to stop, what could not be used, and
//! for how long they waited. Never what a step computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::setup::BatchSizes;
use crate::error::Result;
use cnclip_compute::collective::Collective;
use cnclip_compute::digest::Fingerprint;
use cnclip_data::loader::DataLoader;
use cnclip_distributed::{Communicator, GradientBuckets, StragglerDetector};

/// A rank's way to the others, and what it keeps of them.
#[derive(Debug)]
pub(super) struct RankSync {
    pub(super) world: Arc<Communicator>,
    pub(super) buckets: GradientBuckets,
    /// What each pair of a global batch is known by.
    fingerprints: Vec<Fingerprint>,
    /// Of each rank: whether to stop, how many pairs it could not use, the seconds that it waited.
    rank_values: Vec<f64>,
    straggler_detector: StragglerDetector,
    last_sync: Instant,
    waited: Duration,
}

/// Numbers that each rank tells of itself.
const VALUES_PER_RANK: usize = 3;

impl RankSync {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(world: Arc<Communicator>, sizes: &BatchSizes) -> Result<Self> {
        let count = world.world_size();
        let buckets = world.gradient_buckets()?;
        Ok(Self {
            world,
            buckets,
            fingerprints: vec![Fingerprint { image: 0, text: 0 }; sizes.global_batch],
            rank_values: vec![0.0; VALUES_PER_RANK * count],
            straggler_detector: StragglerDetector::new(count),
            last_sync: Instant::now(),
            waited: Duration::ZERO,
        })
    }

    /// What the pairs of the whole global batch are known by, given this rank's.
    pub(super) fn gather_fingerprints(&mut self, own: &[Fingerprint]) -> &[Fingerprint] {
        let all = &mut self.fingerprints[..own.len() * self.world.world_size()];
        let place = self.world.rank_range(all.len());
        all[place].copy_from_slice(own);
        self.world.all_gather(all);

        all
    }

    /// How long this rank waited for others so far.
    pub(super) fn wait_time(&self) -> Duration {
        self.world.wait_time() + self.buckets.wait_time()
    }

    /// Whether any rank was asked to stop: all are told the same after the same step.
    ///
    /// # Errors
    /// If a rank is lost, or all together skipped too much.
    pub(super) fn sync_stop(&mut self, stop: bool, loader: &DataLoader) -> Result<bool> {
        let skipped = loader.take_unreported();
        let waited = self.wait_time();
        let own = self.world.rank() * VALUES_PER_RANK..(self.world.rank() + 1) * VALUES_PER_RANK;
        let recent = (waited - self.waited).as_secs_f64();
        self.rank_values[own].copy_from_slice(&[
            f64::from(u8::from(stop)),
            skipped.len() as f64,
            recent,
        ]);
        self.waited = waited;
        self.world.all_gather(&mut self.rank_values);
        self.world.check_peers()?;

        if self.values_by_rank(1).sum::<f64>() > 0.0 {
            loader.merge_reported(&self.world.all_gather_varlen(&skipped)?.concat())?;
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
        if let Some(slowest) = self.straggler_detector.record_waits(waited, seconds)
            && self.world.is_rank_zero()
        {
            let worker = self.world.worker_of_rank(slowest.rank);
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

    /// One number that each rank told.
    fn values_by_rank(&self, which: usize) -> impl Iterator<Item = f64> {
        self.rank_values
            .iter()
            .skip(which)
            .step_by(VALUES_PER_RANK)
            .copied()
    }
}
