//! A resolved run: the stages that the specs of both kinds come to, with complete trainer configurations.

use cnclip_crds::{
    common::{RunPolicy, WorkersSpec},
    evaluation::{GateSpec, ScoredCheckpoint},
    stage::MicroBatch,
    trainer_config::{EvaluateConfig, TrainConfig},
};
use serde::Serialize;

/// Reason and message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReason {
    /// Machine-readable reason in CamelCase.
    pub reason: &'static str,
    /// Human-readable message: what was found, and the remedy.
    pub message: String,
}

impl StatusReason {
    /// A reason with its message.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A run with all references and defaults resolved, common to both kinds.
#[derive(Clone, Debug)]
pub struct ResolvedRun {
    /// Stages, in order.
    pub stages: Vec<ResolvedStage>,
    /// Worker pods.
    pub workers: WorkersSpec,
    /// Trainer image.
    pub image: String,
    /// Name of the Secret with the object store credentials.
    pub secret: Option<String>,
    /// Artifact prefix.
    pub artifacts: String,
    /// How it is started, retried and ended.
    pub policy: RunPolicy,
    /// Whether each stage evaluates one checkpoint of a training, independently of the others; stages are
    /// appended while the training runs.
    pub per_checkpoint: bool,
    /// Why the run is not complete although all stages are.
    pub pending_on: Option<StatusReason>,
    /// Why no attempt may be started yet.
    pub blocked_on: Option<StatusReason>,
    /// Quality gate.
    pub gate: Option<GateSpec>,
}

/// A stage with its trainer configuration.
#[derive(Clone, Debug)]
pub struct ResolvedStage {
    /// Name of the stage.
    pub name: String,
    /// Trainer configuration.
    pub config: TrainerConfig,
    /// Checkpoint of a series that the stage evaluates.
    pub scored_checkpoint: Option<ScoredCheckpoint>,
}

/// An attempt at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// Whether the automatic micro-batch size is halved.
    pub halve_micro_batch: bool,
}

/// Configuration of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TrainerConfig {
    /// Training.
    Train(Box<TrainConfig>),
    /// Evaluation.
    Evaluate(Box<EvaluateConfig>),
}

impl TrainerConfig {
    /// Subcommand of the trainer.
    pub fn trainer_subcommand(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// The configuration of an attempt, with the rendezvous address if there is more than one worker.
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
        // A single worker has no rendezvous, and its Service has no such port.
        world.coordinator = (world.replicas > 1).then_some(coordinator);
        config
    }

    /// Artifact prefix.
    pub fn artifacts_uri(&self) -> &str {
        match self {
            Self::Train(train) => &train.artifacts,
            Self::Evaluate(evaluate) => &evaluate.artifacts,
        }
    }

    /// Number of most recent checkpoints that the trainer retains.
    pub fn kept_checkpoints(&self) -> usize {
        match self {
            Self::Train(train) => usize::try_from(train.checkpoint.keep).unwrap_or_default(),
            Self::Evaluate(_) => 0,
        }
    }

    /// Whether the trainer selects the micro-batch size.
    pub fn chooses_micro_batch(&self) -> bool {
        matches!(self, Self::Train(train) if train.micro_batch_size == Some(MicroBatch::AUTO))
    }
}
