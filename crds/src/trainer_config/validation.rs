//! Validation of trainer configurations. The only place with rules that span fields: the operator applies
//! them before it creates pods, the trainer before it reads data. Pure.

use super::{DistributedConfig, EvaluateConfig, TrainConfig, TrainingLength};
use crate::{
    field_problem::{Bounds, FieldProblem},
    stage::{FrozenTower, MicroBatch},
};

impl TrainConfig {
    /// Every violated constraint, in the order of the fields that they concern.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::{model::Architecture, trainer_config::TrainConfig};
    ///
    /// let mut config: TrainConfig = serde_json::from_value(serde_json::json!({
    ///     "run": {"name": "muge", "stage": "tune"},
    ///     "model": Architecture::VitB16.published_model(),
    ///     "contextLength": 52,
    ///     "dataset": "s3://data/muge",
    ///     "length": {"epochs": 3},
    ///     "globalBatchSize": 128,
    ///     "optimizer": {"learningRate": 1e-5, "warmupSteps": 100, "weightDecay": 1e-3,
    ///                   "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-6},
    ///     "checkpoint": {"everySteps": 1000, "keep": 3},
    ///     "artifacts": "s3://runs/muge",
    /// }))?;
    /// assert_eq!(config.problems(), []);
    ///
    /// config.optimizer.beta2 = 1.0;
    /// let problem = config.problems()[0].to_string();
    /// assert_eq!(problem, "optimizer.beta2 is 1; it must be at least 0 and less than 1.");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn problems(&self) -> Vec<FieldProblem> {
        let model = self.model.problems().into_iter();
        let model = model.map(|problem| problem.nested_in("model"));

        let mut problems = self.bounds_problems();
        problems.extend(skipped_percent_problem(self.max_skipped_percent));
        problems.extend(self.world.problems());
        problems.extend(self.batch_size_problem());
        problems.extend(model);
        problems.extend(self.context_length_problem());
        problems.extend(self.optimizer.problems());
        problems.extend(self.resnet_micro_batch_problem());
        problems.extend(self.masked_patches_problem());
        problems.extend(self.distillation_problem());
        problems
    }

    fn bounds_problems(&self) -> Vec<FieldProblem> {
        let length = match self.length {
            TrainingLength::Epochs(epochs) => Bounds::at_least("epochs", epochs, 1),
            TrainingLength::Steps(steps) => Bounds::at_least("steps", steps, 1),
        };

        let mut bounds = vec![
            length,
            Bounds::within("globalBatchSize", self.global_batch_size, 2..=4_194_304),
            Bounds::at_least("maxSkippedSteps", self.max_skipped_steps, 0),
            Bounds::at_least("optimizer.warmupSteps", self.optimizer.warmup_steps, 0),
            Bounds::at_least("checkpoint.everySteps", self.checkpoint.every_steps, 1),
            Bounds::at_least("checkpoint.everySeconds", self.checkpoint.every_seconds, 1),
            Bounds::at_least("checkpoint.keep", self.checkpoint.keep, 1),
            Bounds::at_least("reportEverySteps", self.report_every_steps, 1),
        ];

        if let Some(micro_batch_size) = self.fixed_micro_batch_size() {
            bounds.push(Bounds::at_least("microBatchSize", micro_batch_size, 1));
        }

        if let Some(validation) = &self.validation {
            let interval = validation.every_steps;
            bounds.push(Bounds::at_least("validation.everySteps", interval, 1));
        }

        bounds.iter().filter_map(bounds_problem).collect()
    }

    fn fixed_micro_batch_size(&self) -> Option<i32> {
        self.micro_batch_size.and_then(MicroBatch::fixed_size)
    }

    /// Every rank processes the same number of samples: gradients are averaged over ranks with equal weights.
    fn batch_size_problem(&self) -> Option<FieldProblem> {
        let ranks = self.world.rank_count();
        // A problem of `world`, reported there; a remainder by 0 would panic.
        if ranks < 1 {
            return None;
        }

        let global = i64::from(self.global_batch_size);
        if global % ranks != 0 {
            let next_multiple = (global / ranks + 1) * ranks;
            let message = format!(
                "is {global}, which {ranks} devices cannot share equally. Set it to {next_multiple}, or \
                 another multiple of {ranks}."
            );

            return Some(FieldProblem::new("globalBatchSize", message));
        }

        let share = global / ranks;
        let micro_batch_size = i64::from(self.fixed_micro_batch_size()?);
        (micro_batch_size > share).then(|| {
            let message = format!(
                "is {micro_batch_size}; it must be at most a device's share of globalBatchSize, which is \
                 {share}."
            );

            FieldProblem::new("microBatchSize", message)
        })
    }

    fn context_length_problem(&self) -> Option<FieldProblem> {
        let context_length = self.context_length;
        let positions = self.model.text.positions;
        // [CLS], one token and [SEP] are the shortest text.
        (!(3..=positions).contains(&context_length)).then(|| {
            let message = format!(
                "is {context_length}; it must be 3 to {positions}, the positions of the text tower."
            );

            FieldProblem::new("contextLength", message)
        })
    }

    fn resnet_micro_batch_problem(&self) -> Option<FieldProblem> {
        let automatic = self.micro_batch_size == Some(MicroBatch::AUTO);
        (automatic && self.model.image.resnet.is_some()).then(|| {
            FieldProblem::new(
                "microBatchSize",
                "is Auto, but the image tower is a ResNet: its batch normalization statistics depend on the \
                 micro-batch size, which is therefore part of the recipe. Set it to a number.",
            )
        })
    }

    fn masked_patches_problem(&self) -> Option<FieldProblem> {
        let masked = self.masked_patches_percent;
        let message = if !(0..=90).contains(&masked) {
            format!("is {masked}; it must be 0 to 90.")
        } else if masked > 0 && self.model.image.resnet.is_some() {
            format!(
                "is {masked}, but the image tower is a ResNet, which has no patches. Set it to 0."
            )
        } else {
            return None;
        };

        Some(FieldProblem::new("maskedPatchesPercent", message))
    }

    fn distillation_problem(&self) -> Option<FieldProblem> {
        let weight = self.distillation.as_ref()?.weight;
        if !is_positive(weight) {
            let message = format!("is {weight}; it must be positive.");
            return Some(FieldProblem::new("distillation.weight", message));
        }

        (self.freeze == FrozenTower::Image).then(|| {
            FieldProblem::new(
                "distillation",
                "trains the image tower, but freeze is Image. Set freeze to None, or leave distillation out.",
            )
        })
    }
}

impl DistributedConfig {
    /// Every violated constraint, with paths below `world`.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let Self {
            replicas, devices, ..
        } = self;

        if *replicas < 1 || *devices < 1 {
            let message = format!(
                "has {replicas} workers of {devices} devices; there must be at least one of each."
            );

            return vec![FieldProblem::new("world", message)];
        }

        let bounds = [
            Bounds::within("world.replicas", *replicas, 1..=4096),
            Bounds::within("world.devices", *devices, 1..=64),
        ];

        let problems: Vec<_> = bounds.iter().filter_map(bounds_problem).collect();
        if !problems.is_empty() {
            return problems;
        }

        let coordinator = self.coordinator.as_deref().unwrap_or_default();
        // One worker connects to nobody, so that any address is accepted.
        if *replicas == 1 || is_host_and_port(coordinator) {
            return Vec::new();
        }

        let message = format!(
            "is {coordinator:?}; with {replicas} workers it must be host:port, on which worker 0 listens."
        );

        vec![FieldProblem::new("world.coordinator", message)]
    }
}

impl EvaluateConfig {
    /// Every violated constraint of the configuration.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = self.world.problems();
        if self.tasks.is_empty() {
            problems.push(FieldProblem::new("tasks", "is empty; name at least one."));
        }

        problems.extend(bounds_problem(&Bounds::within(
            "batchSize",
            self.batch_size,
            1..=65_536,
        )));
        problems.extend(skipped_percent_problem(self.max_skipped_percent));
        problems
    }
}

fn bounds_problem(bounds: &Bounds) -> Option<FieldProblem> {
    let problem = bounds.problem()?;
    Some(FieldProblem::new(
        problem.path,
        format!("{}.", problem.message),
    ))
}

fn skipped_percent_problem(percent: f64) -> Option<FieldProblem> {
    let message = format!("is {percent}; it must be 0 to 100.");
    (!(0.0..=100.0).contains(&percent)).then(|| FieldProblem::new("maxSkippedPercent", message))
}

pub(super) fn is_positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
}

fn is_host_and_port(address: &str) -> bool {
    // The last colon: IPv6 addresses contain others.
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
