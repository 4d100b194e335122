//! What both kinds of manifest come to: stages of work for pods, complete and resolved. Decides nothing.

use cnclip_crds::{
    common::{RetryLimits, WorkersSpec},
    evaluation::{GateSpec, ScoredCheckpoint},
    stage::MicroBatch,
    trainer_config::{EvaluateConfig, TrainConfig},
};
use serde::Serialize;

/// Why something is as it is, told to the user: a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReason {
    /// The word, CamelCase.
    pub reason: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

impl StatusReason {
    /// A cause.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Everything that one run wants done.
#[derive(Clone, Debug)]
pub struct ResolvedRun {
    /// What is done, in this order.
    pub stages: Vec<ResolvedStage>,
    /// The pods that do it.
    pub workers: WorkersSpec,
    /// Trainer image.
    pub image: String,
    /// Name of the Secret with access to the object store.
    pub secret: Option<String>,
    /// Kueue queue.
    pub queue: Option<String>,
    /// Prefix of the artifacts.
    pub artifacts: String,
    /// How often something may fail.
    pub retries: RetryLimits,
    /// Seconds that pods may take to run.
    pub start_deadline_seconds: i64,
    /// Seconds that the whole may take.
    pub deadline_seconds: Option<i64>,
    /// Seconds from the end to the deletion of the run.
    pub ttl_seconds: Option<i64>,
    /// Held back by the user.
    pub suspend: bool,
    /// Whether stages are added while it goes on, each standing by itself.
    pub per_checkpoint: bool,
    /// What must happen elsewhere, when all stages are done, before it is complete.
    pub pending_on: Option<StatusReason>,
    /// What must happen elsewhere before the first pod.
    pub blocked_on: Option<StatusReason>,
    /// What its numbers must reach.
    pub gate: Option<GateSpec>,
}

/// One stage of the work.
#[derive(Clone, Debug)]
pub struct ResolvedStage {
    /// Its name.
    pub name: String,
    /// What its trainer is told.
    pub config: TrainerConfig,
    /// The checkpoint it scores, of a series.
    pub scored_checkpoint: Option<ScoredCheckpoint>,
}

/// One attempt at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: i32,
    /// Whether it computes half as many pairs at once as it would choose.
    pub halve_micro_batch: bool,
}

/// What a trainer is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TrainerConfig {
    /// To train.
    Train(Box<TrainConfig>),
    /// To score.
    Evaluate(Box<EvaluateConfig>),
}

impl TrainerConfig {
    /// The trainer's subcommand.
    pub fn trainer_subcommand(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// The same for one attempt, whose workers meet at an address if there are several.
    #[must_use]
    pub fn for_attempt(&self, attempt: Attempt, coordinator: String) -> Self {
        let mut config = self.clone();
        let (run, world) = match &mut config {
            Self::Train(train) => {
                train.halve_micro_batch = attempt.halve_micro_batch;
                (&mut train.run, &mut train.world)
            }
            Self::Evaluate(evaluate) => (&mut evaluate.run, &mut evaluate.world),
        };

        run.attempt = attempt.number;
        world.coordinator = (world.replicas > 1).then_some(coordinator);
        config
    }

    /// The prefix of what the trainer writes.
    pub fn artifacts_uri(&self) -> &str {
        match self {
            Self::Train(train) => &train.artifacts,
            Self::Evaluate(evaluate) => &evaluate.artifacts,
        }
    }

    /// How many of its newest checkpoints are not deleted.
    pub fn kept_checkpoints(&self) -> usize {
        match self {
            Self::Train(train) => usize::try_from(train.checkpoint.keep).unwrap_or_default(),
            Self::Evaluate(_) => 0,
        }
    }

    /// Whether the trainer chooses how many pairs it computes at once.
    pub fn chooses_micro_batch(&self) -> bool {
        matches!(self, Self::Train(train) if train.micro_batch_size == Some(MicroBatch::AUTO))
    }
}
