//! What the ranks of a run tell each other after each step: whether to stop, what could not be used, and
//! for how long they waited. Never what a step computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::setup::Sizes;
use crate::error::Result;
use cnclip_compute::collective::Ranks;
use cnclip_compute::digest::Fingerprint;
use cnclip_data::loader::Loader;
use cnclip_distributed::{Buckets, Pace, World};

/// A rank's way to the others, and what it keeps of them.
#[derive(Debug)]
pub(super) struct Together {
    pub(super) world: Arc<World>,
    pub(super) buckets: Buckets,
    /// What each pair of a global batch is known by.
    fingerprints: Vec<Fingerprint>,
    /// Of each rank: whether to stop, how many pairs it could not use, the seconds that it waited.
    told: Vec<f64>,
    pace: Pace,
    since: Instant,
    waited: Duration,
}

/// Numbers that each rank tells of itself.
const TOLD: usize = 3;

impl Together {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(world: Arc<World>, sizes: &Sizes) -> Result<Self> {
        let count = world.count();
        let buckets = world.buckets()?;
        Ok(Self {
            world,
            buckets,
            fingerprints: vec![Fingerprint { image: 0, text: 0 }; sizes.global_batch],
            told: vec![0.0; TOLD * count],
            pace: Pace::new(count),
            since: Instant::now(),
            waited: Duration::ZERO,
        })
    }

    /// What the pairs of the whole global batch are known by, given this rank's.
    pub(super) fn fingerprints(&mut self, own: &[Fingerprint]) -> &[Fingerprint] {
        let all = &mut self.fingerprints[..own.len() * self.world.count()];
        let place = self.world.share(all.len());
        all[place].copy_from_slice(own);
        self.world.collect(all);

        all
    }

    /// How long this rank waited for others so far.
    pub(super) fn waited(&self) -> Duration {
        self.world.waited() + self.buckets.waited()
    }

    /// Whether any rank was asked to stop: all are told the same after the same step.
    ///
    /// # Errors
    /// If a rank is lost, or all together skipped too much.
    pub(super) fn agree(&mut self, stop: bool, loader: &Loader) -> Result<bool> {
        let skipped = loader.untold();
        let waited = self.waited();
        let own = self.world.rank() * TOLD..(self.world.rank() + 1) * TOLD;
        let recent = (waited - self.waited).as_secs_f64();
        self.told[own].copy_from_slice(&[f64::from(u8::from(stop)), skipped.len() as f64, recent]);
        self.waited = waited;
        self.world.collect(&mut self.told);
        self.world.check()?;

        if self.of_each(1).sum::<f64>() > 0.0 {
            loader.learn(&self.world.exchange(&skipped)?.concat())?;
        }

        self.look_for_the_slowest();
        Ok(self.of_each(0).any(|stop| stop > 0.0))
    }

    fn look_for_the_slowest(&mut self) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let waited = self.told.iter().skip(2).step_by(TOLD).copied();
        if let Some(slowest) = self.pace.add(waited, seconds)
            && self.world.is_first()
        {
            let worker = self.world.worker(slowest.rank);
            tracing::warn!(
                rank = slowest.rank,
                worker,
                "rank {} (worker {worker}) holds up the others: in {:.0} s they waited {:.0} s longer than it",
                slowest.rank,
                slowest.of,
                slowest.waited,
            );
        }
    }

    /// One number that each rank told.
    fn of_each(&self, which: usize) -> impl Iterator<Item = f64> {
        self.told.iter().skip(which).step_by(TOLD).copied()
    }
}
