//! Chooses the micro-batch and whether activations are recomputed: the fastest plan that fits, or the
//! requested one if it does.

use cnclip_crds::stage::MicroBatch;

use super::{MemoryEstimate, MemoryInputs};

/// A smaller micro-batch leaves most of a processor idle: recomputing activations is faster then.
const MIN_EFFICIENT_BATCH: usize = 8;

/// Samples that a device computes at once, at most: kernels have a block for each in the second or third direction of
/// their grid, which CUDA limits.
const MAX_DEVICE_BATCH: usize = 65_535;

/// No plan fits, or not the requested one: what is needed, what there is, and what would fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DoesNotFit(pub String);

/// How a rank computes its share of a global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Samples that are computed at once.
    pub micro_batch: usize,
    /// Whether the towers recompute activations in the backward pass.
    pub recompute: bool,
}

/// The plan of a rank with `available` bytes of memory, and what it needs. Without a limit everything fits.
///
/// # Errors
/// If the requested plan does not fit, or none does: what is needed, what there is, and what would fit.
///
/// # Guarantees
/// The same inputs give the same plan; the gradients of all plans are the same but for rounding.
///
/// # Examples
/// ```
/// use cnclip_crds::model::Architecture;
/// use cnclip_crds::trainer_config::TrainConfig;
/// use cnclip_nn::memory::{HostInputs, MemoryInputs, choose_batch_plan};
///
/// let config: TrainConfig = serde_json::from_value(serde_json::json!({
///     "run": {"name": "run", "stage": "train"},
///     "model": Architecture::VitB16.published_model(),
///     "contextLength": 52,
///     "dataset": "data",
///     "length": {"steps": 100},
///     "globalBatchSize": 128,
///     "microBatchSize": "Auto",
///     "checkpoint": {"everySteps": 100, "keep": 1},
///     "artifacts": "run",
///     "optimizer": {"learningRate": 5e-5, "warmupSteps": 10, "weightDecay": 0.001, "beta1": 0.9,
///         "beta2": 0.98, "epsilon": 1e-6},
/// }))?;
///
/// let inputs = MemoryInputs {
///     config: &config,
///     local_batch_size: 128,
///     shard_bytes: 0,
///     shuffle_window: 1 << 30,
///     teacher: None,
///     threads: 8,
///     device: None,
///     host: HostInputs::default(),
/// };
///
/// let limit = 16 << 30;
/// let (plan, estimate) = choose_batch_plan(&inputs, Some(limit))?;
/// assert!(plan.micro_batch <= 128);
/// assert!(estimate.total_bytes() <= limit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn choose_batch_plan(
    inputs: &MemoryInputs<'_>,
    available: Option<u64>,
) -> Result<(BatchPlan, MemoryEstimate), DoesNotFit> {
    let is_chosen = matches!(inputs.config.micro_batch_size, Some(MicroBatch::Chosen(_)));
    if !is_chosen && !can_launch(inputs, requested_plan(inputs)) {
        return Err(DoesNotFit(too_many_samples_message(inputs)));
    }

    let plan = match inputs.config.micro_batch_size {
        Some(MicroBatch::Chosen(_)) => fastest_plan(inputs, available),
        _ => Some(requested_plan(inputs)).filter(|plan| surely_fits(inputs, *plan, available)),
    };

    match plan {
        Some(plan) => Ok((plan, inputs.estimate_memory(plan))),
        None => Err(DoesNotFit(out_of_memory_message(
            inputs,
            available.unwrap_or_default(),
        ))),
    }
}

/// The fastest plan that fits, or half of its micro-batch where a run of the stage ran out of memory before.
fn fastest_plan(inputs: &MemoryInputs<'_>, available: Option<u64>) -> Option<BatchPlan> {
    let config = inputs.config;
    let fits = |plan: &BatchPlan| {
        can_launch(inputs, *plan)
            && available.is_none_or(|bytes| inputs.estimate_memory(*plan).total_bytes() <= bytes)
    };

    let fastest =
        candidate_plans(inputs.local_batch_size, config.gradient_checkpointing).find(fits)?;
    Some(if config.halve_micro_batch {
        halve_micro_batch(fastest)
    } else {
        fastest
    })
}

/// Whether kernels can be launched for so many samples.
fn can_launch(inputs: &MemoryInputs<'_>, plan: BatchPlan) -> bool {
    inputs.device.is_none() || plan.micro_batch <= MAX_DEVICE_BATCH
}

fn too_many_samples_message(inputs: &MemoryInputs<'_>) -> String {
    format!(
        "This stage computes {} samples at once on a device, which computes at most {MAX_DEVICE_BATCH}. Set \
         microBatchSize to at most that, or to `Auto`.",
        requested_plan(inputs).micro_batch
    )
}

/// Whether a plan fits without the cache, which may turn out smaller than its limit: a plan that somebody
/// asked for is not refused for it.
fn surely_fits(inputs: &MemoryInputs<'_>, plan: BatchPlan, available: Option<u64>) -> bool {
    let estimate = inputs.estimate_memory(plan);
    available.is_none_or(|bytes| estimate.total_bytes() - estimate.cache <= bytes)
}

/// The plan that is requested, where none is to be chosen: the whole share at once but for a number.
fn requested_plan(inputs: &MemoryInputs<'_>) -> BatchPlan {
    let samples = inputs
        .config
        .micro_batch_size
        .and_then(MicroBatch::fixed_size);

    BatchPlan {
        micro_batch: samples.map_or(inputs.local_batch_size, |samples| samples as usize),
        recompute: inputs.config.gradient_checkpointing.unwrap_or(false),
    }
}

/// All plans, the fastest first: the whole share at once; the same with recomputed activations, which costs a
/// third forward pass; in micro-batches, each of which computes its forward pass twice; both.
fn candidate_plans(local_batch: usize, recompute: Option<bool>) -> impl Iterator<Item = BatchPlan> {
    let whole = [false, true].map(|recompute| BatchPlan {
        micro_batch: local_batch,
        recompute,
    });

    let parts = |recompute| {
        let sizes = (2..=local_batch).map(move |parts| local_batch.div_ceil(parts));
        sizes.map(move |micro_batch| BatchPlan {
            micro_batch,
            recompute,
        })
    };

    // Below an efficient size recomputing comes first; without it the smallest parts come last of all, for runs that
    // forbid recomputing.
    let efficient_parts = parts(false).take_while(|plan| plan.micro_batch >= MIN_EFFICIENT_BATCH);
    let all = whole
        .into_iter()
        .chain(efficient_parts)
        .chain(parts(true))
        .chain(parts(false));

    all.filter(move |plan| recompute.is_none_or(|requested| requested == plan.recompute))
}

fn halve_micro_batch(plan: BatchPlan) -> BatchPlan {
    BatchPlan {
        micro_batch: plan.micro_batch.div_ceil(2),
        ..plan
    }
}

fn out_of_memory_message(inputs: &MemoryInputs<'_>, available: u64) -> String {
    let smallest = BatchPlan {
        micro_batch: 1,
        recompute: true,
    };

    let wanted = match inputs.config.micro_batch_size {
        Some(MicroBatch::Chosen(_)) => smallest,
        _ => requested_plan(inputs),
    };

    let estimate = inputs.estimate_memory(wanted);
    let fitting = candidate_plans(inputs.local_batch_size, None)
        .find(|plan| inputs.estimate_memory(*plan).total_bytes() <= available);
    let advice = match fitting {
        Some(plan) => format!(
            "It would fit with microBatchSize {} and gradientCheckpointing {}; `microBatchSize: Auto` finds \
             such sizes by itself.",
            plan.micro_batch, plan.recompute
        ),
        None => {
            let least = inputs.estimate_memory(smallest).total_bytes();
            let remedy = match inputs.device {
                None => "raise spec.workers.resources.limits.memory",
                Some(_) => "take GPUs with more memory",
            };

            format!(
                "Even one sample at a time with gradientCheckpointing needs {}: {remedy}, or share the batch among \
                 more workers.",
                format_mebibytes(least)
            )
        }
    };

    format!(
        "This stage needs {} of memory for {} samples at once ({}), and there are {}. {advice}",
        format_mebibytes(estimate.total_bytes()),
        wanted.micro_batch,
        largest_kinds(&estimate),
        format_mebibytes(available)
    )
}

/// The four largest kinds, which are enough to see what to change.
fn largest_kinds(estimate: &MemoryEstimate) -> String {
    let mut kinds = estimate.bytes_by_kind();
    kinds.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let largest: Vec<_> = kinds[..4]
        .iter()
        .map(|(kind, bytes)| format!("{kind} {}", format_mebibytes(*bytes)))
        .collect();

    largest.join(", ")
}

/// Bytes in a message, rounded up.
pub(super) fn format_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;
    use cnclip_crds::trainer_config::TrainConfig;
    use serde_json::json;

    use super::super::HostInputs;
    use super::*;

    const TOO_LITTLE: u64 = 1;

    fn config(micro_batch: Option<MicroBatch>, recompute: Option<bool>) -> TrainConfig {
        let mut config: TrainConfig = serde_json::from_value(json!({
            "run": {"name": "run", "stage": "train"}, "model": Architecture::VitB16.published_model(),
            "contextLength": 52, "dataset": "nowhere", "length": {"steps": 1}, "globalBatchSize": 100,
            "checkpoint": {"everySteps": 1, "keep": 1}, "artifacts": "nowhere",
            "optimizer": {"learningRate": 1.0, "warmupSteps": 0, "weightDecay": 0.0, "beta1": 0.9,
                "beta2": 0.9, "epsilon": 1.0},
        }))
        .unwrap();

        (config.micro_batch_size, config.gradient_checkpointing) = (micro_batch, recompute);
        config
    }

    fn inputs(config: &TrainConfig) -> MemoryInputs<'_> {
        MemoryInputs {
            config,
            local_batch_size: 100,
            shard_bytes: 0,
            teacher: None,
            shuffle_window: 1 << 30,
            threads: 2,
            device: None,
            host: HostInputs::default(),
        }
    }

    fn plan(micro_batch: usize, recompute: bool) -> BatchPlan {
        BatchPlan {
            micro_batch,
            recompute,
        }
    }

    #[test]
    fn the_fastest_plan_that_fits_is_chosen() {
        // What just fits, whether recomputing is left open, and what is chosen then.
        let rows = [
            (plan(100, false), None, plan(100, false)),
            (plan(100, true), None, plan(100, true)),
            (plan(34, false), Some(false), plan(34, false)),
            (plan(49, false), Some(false), plan(34, false)),
            (plan(3, false), Some(false), plan(3, false)),
            (plan(30, true), Some(true), plan(25, true)),
            (plan(3, true), None, plan(3, true)),
            (plan(1, true), None, plan(1, true)),
        ];

        for (fits, recompute, chosen) in rows {
            let config = config(Some(MicroBatch::AUTO), recompute);
            let inputs = inputs(&config);
            let available = inputs.estimate_memory(fits).total_bytes();
            let (found, estimate) = choose_batch_plan(&inputs, Some(available)).unwrap();
            assert_eq!(found, chosen, "{fits:?}");
            assert!(estimate.total_bytes() <= available, "{fits:?}");
        }
    }

    #[test]
    fn without_a_limit_everything_fits_and_half_of_it_after_a_lack_of_memory() {
        let mut config = config(Some(MicroBatch::AUTO), None);
        assert_eq!(
            choose_batch_plan(&inputs(&config), None).unwrap().0,
            plan(100, false)
        );
        config.halve_micro_batch = true;
        assert_eq!(
            choose_batch_plan(&inputs(&config), None).unwrap().0,
            plan(50, false)
        );
    }

    #[test]
    fn what_was_asked_for_is_taken_as_it_is_if_it_fits_even_if_what_may_be_kept_does_not() {
        for (micro_batch, recompute, requested) in [
            (None, None, plan(100, false)),
            (Some(MicroBatch::Pairs(7)), None, plan(7, false)),
            (Some(MicroBatch::Pairs(7)), Some(true), plan(7, true)),
        ] {
            let config = config(micro_batch, recompute);
            let available = inputs(&config).estimate_memory(requested).total_bytes();
            let large = MemoryInputs {
                shard_bytes: 1 << 40,
                ..inputs(&config)
            };
            assert!(large.estimate_memory(requested).total_bytes() > available);
            assert_eq!(
                choose_batch_plan(&large, Some(available)).unwrap().0,
                requested
            );
            assert!(choose_batch_plan(&large, Some(available - 1)).is_err());
        }
    }

    #[test]
    fn a_device_computes_no_more_samples_at_once_than_its_grid_has_room_for() {
        fn on_device(config: &TrainConfig) -> MemoryInputs<'_> {
            MemoryInputs {
                local_batch_size: 100_000,
                device: Some(cnclip_crds::stage::Precision::Bf16),
                ..inputs(config)
            }
        }

        let auto = config(Some(MicroBatch::AUTO), None);
        let (found, _) = choose_batch_plan(&on_device(&auto), None).unwrap();
        assert_eq!(found, plan(50_000, false));
        let fixed = |pairs| config(Some(MicroBatch::Pairs(pairs)), None);
        let largest = fixed(65_535);
        assert!(choose_batch_plan(&on_device(&largest), None).is_ok());
        for (config, samples) in [(fixed(65_536), "65536"), (config(None, None), "100000")] {
            let message = choose_batch_plan(&on_device(&config), None).unwrap_err().0;
            assert!(message.contains(samples), "{message}");
            let host = MemoryInputs {
                device: None,
                ..on_device(&config)
            };
            assert!(choose_batch_plan(&host, None).is_ok());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let plain = config(None, None);
        let available = inputs(&plain).estimate_memory(plan(60, true)).total_bytes();
        let refused = choose_batch_plan(&inputs(&plain), Some(available)).unwrap_err();
        let message = refused.to_string();

        for part in [
            "for 100 samples at once (activations ",
            "would fit with microBatchSize",
            "Auto`",
        ] {
            assert!(message.contains(part), "{message}");
        }

        for micro_batch in [None, Some(MicroBatch::AUTO)] {
            let config = config(micro_batch, None);
            let message = choose_batch_plan(&inputs(&config), Some(TOO_LITTLE))
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("there are 1 MiB. Even one sample at a time"),
                "{message}"
            );
        }
    }
}
