//! What both kinds of manifest come to: stages of work for pods, complete and resolved. Decides nothing.

use cnclip_crds::{
    evaluation::{Gate, ScoredCheckpoint},
    run_config::{EvaluateConfig, TrainConfig},
    shared::{Retries, Workers},
    stage::MicroBatch,
};
use serde::Serialize;

/// Why something is as it is, told to the user: a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The word, CamelCase.
    pub reason: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

impl Cause {
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
pub struct Work {
    /// What is done, in this order.
    pub stages: Vec<Stage>,
    /// The pods that do it.
    pub workers: Workers,
    /// Trainer image.
    pub image: String,
    /// Name of the Secret with access to the object store.
    pub secret: Option<String>,
    /// Kueue queue.
    pub queue: Option<String>,
    /// Prefix of the artifacts.
    pub artifacts: String,
    /// How often something may fail.
    pub retries: Retries,
    /// Seconds that pods may take to run.
    pub start_deadline_seconds: i64,
    /// Seconds that the whole may take.
    pub deadline_seconds: Option<i64>,
    /// Seconds from the end to the deletion of the run.
    pub ttl_seconds: Option<i64>,
    /// Held back by the user.
    pub suspend: bool,
    /// Whether stages are added while it goes on, each standing by itself.
    pub series: bool,
    /// What must happen elsewhere, when all stages are done, before it is complete.
    pub goes_on: Option<Cause>,
    /// What must happen elsewhere before the first pod.
    pub waits_for: Option<Cause>,
    /// What its numbers must reach.
    pub gate: Option<Gate>,
}

/// One stage of the work.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What its trainer is told.
    pub config: Config,
    /// The checkpoint it scores, of a series.
    pub scores: Option<ScoredCheckpoint>,
}

/// One attempt at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: i32,
    /// Whether it computes half as many pairs at once as it would choose.
    pub halved: bool,
}

/// What a trainer is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Config {
    /// To train.
    Train(Box<TrainConfig>),
    /// To score.
    Evaluate(Box<EvaluateConfig>),
}

impl Config {
    /// The trainer's subcommand.
    pub fn command(&self) -> &'static str {
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
                train.halve_micro_batch = attempt.halved;
                (&mut train.run, &mut train.world)
            }
            Self::Evaluate(evaluate) => (&mut evaluate.run, &mut evaluate.world),
        };

        run.attempt = attempt.number;
        world.coordinator = (world.replicas > 1).then_some(coordinator);
        config
    }

    /// The prefix of what the trainer writes.
    pub fn artifacts(&self) -> &str {
        match self {
            Self::Train(train) => &train.artifacts,
            Self::Evaluate(evaluate) => &evaluate.artifacts,
        }
    }

    /// How many of its newest checkpoints are not deleted.
    pub fn keeps(&self) -> usize {
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
