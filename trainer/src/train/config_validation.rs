//! What in a configuration can never work, told before anything is read. Pure.

use cnclip_crds::stage::{FrozenTower, MicroBatch};
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};

use crate::error::{Error, Result};

/// # Errors
/// The first thing that can never work: where it is, what was found, what to do.
pub(super) fn validate_config(config: &TrainConfig) -> Result<()> {
    let problems = [
        check_minimums(config),
        check_distributed(config),
        check_model(config),
        check_optimizer(config),
        check_recipe(config),
    ];

    match problems.into_iter().flatten().next() {
        Some(problem) => Err(Error::Config(problem)),
        None => Ok(()),
    }
}

fn check_distributed(config: &TrainConfig) -> Option<String> {
    let world = &config.world;
    let shares = || check_batch_sizes(config, i64::from(world.replicas) * i64::from(world.devices));
    world.validation_error().or_else(shares)
}

/// Each rank computes as much as any other.
fn check_batch_sizes(config: &TrainConfig, ranks: i64) -> Option<String> {
    let global = i64::from(config.global_batch_size);
    let micro = i64::from(fixed_micro_batch(config));
    if global % ranks != 0 {
        return Some(format!(
            "globalBatchSize is {global}, which {ranks} devices cannot share equally. Set it to {}, or \
             another multiple of {ranks}.",
            (global / ranks + 1) * ranks
        ));
    }

    let share = global / ranks;
    (micro > share).then(|| {
        format!(
            "microBatchSize is {micro}; it must be at most a device's share of globalBatchSize, which is \
             {share}."
        )
    })
}

fn check_model(config: &TrainConfig) -> Option<String> {
    if let Some(problem) = config.model.validation_error() {
        return Some(format!("model: {problem}"));
    }

    let context = config.context_length;
    let positions = config.model.text.positions;
    (!(3..=positions).contains(&context)).then(|| {
        format!(
            "contextLength is {context}; it must be 3 to {positions}, the positions of the text tower."
        )
    })
}

fn is_positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
}

fn check_optimizer(config: &TrainConfig) -> Option<String> {
    let o = &config.optimizer;
    let unit = |x: f64| (0.0..1.0).contains(&x);
    let norm = o.max_gradient_norm.unwrap_or(1.0);
    let average = o.average_decay.unwrap_or(0.5);
    let rows = [
        (
            "learningRate",
            o.learning_rate,
            is_positive(o.learning_rate),
            "positive",
        ),
        (
            "weightDecay",
            o.weight_decay,
            o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
            "at least 0",
        ),
        (
            "beta1",
            o.beta1,
            unit(o.beta1),
            "at least 0 and less than 1",
        ),
        (
            "beta2",
            o.beta2,
            unit(o.beta2),
            "at least 0 and less than 1",
        ),
        ("epsilon", o.epsilon, is_positive(o.epsilon), "positive"),
        ("maxGradientNorm", norm, is_positive(norm), "positive"),
        (
            "averageDecay",
            average,
            average > 0.0 && average < 1.0,
            "between 0 and 1",
        ),
    ];

    let (name, value, _, must) = rows.into_iter().find(|(_, _, fits, _)| !fits)?;
    Some(format!("optimizer.{name} is {value}; it must be {must}."))
}

fn check_minimums(config: &TrainConfig) -> Option<String> {
    let (name, length) = match config.length {
        TrainingLength::Epochs(epochs) => ("epochs", epochs),
        TrainingLength::Steps(steps) => ("steps", steps),
    };

    let validation = config
        .validation
        .as_ref()
        .map_or(1, |validation| validation.every_steps);

    let rows = [
        (name, length, 1),
        ("globalBatchSize", config.global_batch_size.into(), 2),
        ("microBatchSize", fixed_micro_batch(config).into(), 1),
        ("maxSkippedSteps", config.max_skipped_steps, 0),
        ("optimizer.warmupSteps", config.optimizer.warmup_steps, 0),
        ("checkpoint.everySteps", config.checkpoint.every_steps, 1),
        ("checkpoint.keep", config.checkpoint.keep.into(), 1),
        ("validation.everySteps", validation, 1),
        ("reportEverySteps", config.report_every_steps, 1),
    ];

    if !(0.0..=100.0).contains(&config.max_skipped_percent) {
        return Some(format!(
            "maxSkippedPercent is {}; it must be 0 to 100.",
            config.max_skipped_percent
        ));
    }

    let (name, value, least) = rows.into_iter().find(|(_, value, least)| value < least)?;
    Some(format!("{name} is {value}; it must be at least {least}."))
}

/// The number of pairs that is asked for; 1 where none is.
fn fixed_micro_batch(config: &TrainConfig) -> i32 {
    config
        .micro_batch_size
        .and_then(MicroBatch::fixed_size)
        .unwrap_or(1)
}

fn check_recipe(config: &TrainConfig) -> Option<String> {
    if config.micro_batch_size == Some(MicroBatch::AUTO) && config.model.image.resnet.is_some() {
        return Some(
            "microBatchSize is Auto, but the image tower is a residual network: its batch normalisation takes \
             statistics of these pairs, so their number is part of the recipe. Set it to a number."
                .into(),
        );
    }

    let masked = config.masked_patches_percent;
    if !(0..=90).contains(&masked) {
        return Some(format!(
            "maskedPatchesPercent is {masked}; it must be 0 to 90."
        ));
    }

    if masked > 0 && config.model.image.resnet.is_some() {
        return Some(format!(
            "maskedPatchesPercent is {masked}, but the image tower is a residual network, which has no \
             patches. Set it to 0."
        ));
    }

    check_distillation(config)
}

fn check_distillation(config: &TrainConfig) -> Option<String> {
    let weight = config.distillation.as_ref()?.weight;
    if !is_positive(weight) {
        return Some(format!(
            "distillation.weight is {weight}; it must be positive."
        ));
    }

    (config.freeze == FrozenTower::Image).then(|| {
        "distillation trains the image tower, but freeze is Image. Set freeze to None, or leave \
         distillation out."
            .into()
    })
}
