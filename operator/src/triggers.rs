//! Triggers of reconciliations that no watch of the API server gives.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use futures::{Stream, stream};
use tokio::sync::Notify;

use crate::{run_key::RunKey, sync::lock_ignoring_poison};

/// Queues to the controllers, one per kind of run; cheap to clone.
#[derive(Clone, Default)]
pub struct Triggers {
    queues: Arc<Mutex<HashMap<&'static str, Arc<TriggerQueue>>>>,
}

/// Runs to reconcile, oldest first, each once. Not a channel: a controller that is busy takes nothing, and
/// the queue must not outgrow the number of runs.
#[derive(Default)]
struct TriggerQueue {
    runs: Mutex<QueuedRuns>,
    added: Notify,
}

#[derive(Default)]
struct QueuedRuns {
    order: VecDeque<RunKey>,
    queued: HashSet<RunKey>,
}

impl Triggers {
    /// Triggers the reconciliation of a run.
    pub fn reconcile(&self, run: RunKey) {
        self.queue(run.kind).push(run);
    }

    /// Runs of a kind to reconcile.
    pub fn subscribe(&self, kind: &'static str) -> impl Stream<Item = RunKey> + Send + 'static {
        stream::unfold(self.queue(kind), |queue| async {
            let run = queue.pop().await;
            Some((run, queue))
        })
    }

    fn queue(&self, kind: &'static str) -> Arc<TriggerQueue> {
        let mut queues = lock_ignoring_poison(&self.queues);
        queues.entry(kind).or_default().clone()
    }
}

impl TriggerQueue {
    fn push(&self, run: RunKey) {
        let mut runs = lock_ignoring_poison(&self.runs);
        if runs.queued.insert(run.clone()) {
            runs.order.push_back(run);
        }

        self.added.notify_one();
    }

    async fn pop(&self) -> RunKey {
        loop {
            if let Some(run) = self.try_pop() {
                return run;
            }

            self.added.notified().await;
        }
    }

    fn try_pop(&self) -> Option<RunKey> {
        let mut runs = lock_ignoring_poison(&self.runs);
        let run = runs.order.pop_front()?;
        runs.queued.remove(&run);
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::cluster_fixtures::run_key;

    #[tokio::test]
    async fn a_run_is_queued_once_until_it_is_taken() {
        let triggers = Triggers::default();
        for name in ["b", "a", "b", "b"] {
            triggers.reconcile(run_key("training", name));
        }

        triggers.reconcile(run_key("evaluation", "c"));
        let mut trainings = Box::pin(triggers.subscribe("training"));
        assert_eq!(trainings.next().await.unwrap().name, "b");
        triggers.reconcile(run_key("training", "b"));
        assert_eq!(trainings.next().await.unwrap().name, "a");
        assert_eq!(trainings.next().await.unwrap().name, "b");
        assert!(trainings.next().now_or_never().is_none());
    }
}
