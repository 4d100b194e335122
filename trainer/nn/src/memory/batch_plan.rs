//! Which way of computing is taken: the fastest that fits, or the one that was asked for if it does.

use cnclip_crds::stage::MicroBatch;

use super::{MemoryEstimate, MemoryInputs};

/// Fewer pairs at once than this leave most of a processor idle.
const MIN_EFFICIENT_BATCH: usize = 8;

/// No way of computing fits: what is needed, what there is, and what would fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DoesNotFit(pub String);

/// How a rank goes through its share of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Pairs that are computed at once.
    pub micro_batch: usize,
    /// Whether the towers compute again what their gradient needs.
    pub recompute: bool,
}

/// How a rank computes that may have so many bytes, and what it needs for that. Without a limit
/// everything fits.
///
/// # Errors
/// If what was asked for does not fit, or nothing does: what is needed, what there is, and what would
/// fit.
///
/// # Guarantees
/// The same load and the same limit give the same way; the gradients of all ways are the same but for
/// rounding.
pub fn choose_batch_plan(
    load: &MemoryInputs<'_>,
    available: Option<u64>,
) -> Result<(BatchPlan, MemoryEstimate), DoesNotFit> {
    let config = load.config;
    let fits = |way: &BatchPlan| {
        available.is_none_or(|bytes| load.estimate_memory(*way).total_bytes() <= bytes)
    };
    let way = match config.micro_batch_size {
        Some(MicroBatch::Chosen(_)) => {
            let fastest =
                candidate_plans(load.local_batch_size, config.gradient_checkpointing).find(fits);
            fastest.map(|way| {
                if config.halve_micro_batch {
                    halve_micro_batch(way)
                } else {
                    way
                }
            })
        }
        _ => {
            // What is kept for speed may turn out smaller than it may become.
            let surely = |way: &BatchPlan| {
                let needs = load.estimate_memory(*way);
                available.is_none_or(|bytes| needs.total_bytes() - needs.cache <= bytes)
            };

            Some(requested_plan(load)).filter(surely)
        }
    };

    match way {
        Some(way) => Ok((way, load.estimate_memory(way))),
        None => Err(DoesNotFit(out_of_memory_message(
            load,
            available.unwrap_or_default(),
        ))),
    }
}

/// The way that is asked for, where none is to be chosen: the whole share at once but for a number.
fn requested_plan(load: &MemoryInputs<'_>) -> BatchPlan {
    let pairs = load
        .config
        .micro_batch_size
        .and_then(MicroBatch::fixed_size);
    BatchPlan {
        micro_batch: pairs.map_or(load.local_batch_size, |pairs| pairs as usize),
        recompute: load.config.gradient_checkpointing.unwrap_or(false),
    }
}

/// All ways, the fastest first: a share at once; the same, a third slower, keeping less; in parts, two
/// fifths slower; both.
fn candidate_plans(own: usize, recompute: Option<bool>) -> impl Iterator<Item = BatchPlan> {
    let whole = [false, true].map(|recompute| BatchPlan {
        micro_batch: own,
        recompute,
    });

    let parts = |recompute| {
        let sizes = (2..=own).map(move |parts| own.div_ceil(parts));
        sizes.map(move |micro_batch| BatchPlan {
            micro_batch,
            recompute,
        })
    };

    let large = parts(false).take_while(|way| way.micro_batch >= MIN_EFFICIENT_BATCH);
    let all = whole
        .into_iter()
        .chain(large)
        .chain(parts(true))
        .chain(parts(false));

    all.filter(move |way| recompute.is_none_or(|asked| asked == way.recompute))
}

fn halve_micro_batch(way: BatchPlan) -> BatchPlan {
    BatchPlan {
        micro_batch: way.micro_batch.div_ceil(2),
        ..way
    }
}

fn out_of_memory_message(load: &MemoryInputs<'_>, available: u64) -> String {
    let least = BatchPlan {
        micro_batch: 1,
        recompute: true,
    };

    let wanted = match load.config.micro_batch_size {
        Some(MicroBatch::Chosen(_)) => least,
        _ => requested_plan(load),
    };

    let needs = load.estimate_memory(wanted);
    let mut kinds = needs.bytes_by_kind();
    kinds.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let largest: Vec<_> = kinds[..4]
        .iter()
        .map(|(kind, bytes)| format!("{kind} {}", format_mebibytes(*bytes)))
        .collect();

    let would = candidate_plans(load.local_batch_size, None)
        .find(|way| load.estimate_memory(*way).total_bytes() <= available);
    let advice = match would {
        Some(way) => format!(
            "It would fit with microBatchSize {} and gradientCheckpointing {}; `microBatchSize: Auto` finds \
             such sizes by itself.",
            way.micro_batch, way.recompute
        ),
        None => format!(
            "Even one pair at a time with gradientCheckpointing needs {}: {}, or share the batch among more \
             workers.",
            format_mebibytes(load.estimate_memory(least).total_bytes()),
            match load.device {
                None => "raise spec.workers.resources.limits.memory",
                Some(_) => "take cards with more memory",
            }
        ),
    };

    format!(
        "This stage needs {} of memory for {} pairs at once ({}), and there are {}. {advice}",
        format_mebibytes(needs.total_bytes()),
        wanted.micro_batch,
        largest.join(", "),
        format_mebibytes(available)
    )
}

/// Bytes for people.
pub(super) fn format_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;
    use cnclip_crds::trainer_config::TrainConfig;
    use serde_json::json;

    use super::*;

    const NEVER: u64 = 1;

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

    fn load(config: &TrainConfig) -> MemoryInputs<'_> {
        MemoryInputs {
            config,
            local_batch_size: 100,
            shard_bytes: 0,
            teacher: None,
            shuffle_window: 1 << 30,
            threads: 2,
            device: None,
        }
    }

    fn way(micro_batch: usize, recompute: bool) -> BatchPlan {
        BatchPlan {
            micro_batch,
            recompute,
        }
    }

    #[test]
    fn the_fastest_way_that_fits_is_chosen() {
        // What must fit, whether computing again is left open, and what is chosen then.
        let rows = [
            (way(100, false), None, way(100, false)),
            (way(100, true), None, way(100, true)),
            (way(34, false), Some(false), way(34, false)),
            (way(49, false), Some(false), way(34, false)),
            (way(3, false), Some(false), way(3, false)),
            (way(30, true), Some(true), way(25, true)),
            (way(3, true), None, way(3, true)),
            (way(1, true), None, way(1, true)),
        ];

        for (fits, recompute, chosen) in rows {
            let config = config(Some(MicroBatch::AUTO), recompute);
            let load = load(&config);
            let available = load.estimate_memory(fits).total_bytes();
            let (found, needs) = choose_batch_plan(&load, Some(available)).unwrap();
            assert_eq!(found, chosen, "{fits:?}");
            assert!(needs.total_bytes() <= available, "{fits:?}");
        }
    }

    #[test]
    fn without_a_limit_everything_fits_and_half_of_it_after_a_lack_of_memory() {
        let mut config = config(Some(MicroBatch::AUTO), None);
        assert_eq!(
            choose_batch_plan(&load(&config), None).unwrap().0,
            way(100, false)
        );
        config.halve_micro_batch = true;
        assert_eq!(
            choose_batch_plan(&load(&config), None).unwrap().0,
            way(50, false)
        );
    }

    #[test]
    fn what_was_asked_for_is_taken_as_it_is_if_it_fits_even_if_what_may_be_kept_does_not() {
        for (micro_batch, recompute, asked) in [
            (None, None, way(100, false)),
            (Some(MicroBatch::Pairs(7)), None, way(7, false)),
            (Some(MicroBatch::Pairs(7)), Some(true), way(7, true)),
        ] {
            let config = config(micro_batch, recompute);
            let available = load(&config).estimate_memory(asked).total_bytes();
            let large = MemoryInputs {
                shard_bytes: 1 << 40,
                ..load(&config)
            };
            assert!(large.estimate_memory(asked).total_bytes() > available);
            assert_eq!(choose_batch_plan(&large, Some(available)).unwrap().0, asked);
            assert!(choose_batch_plan(&large, Some(available - 1)).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let plain = config(None, None);
        let available = load(&plain).estimate_memory(way(60, true)).total_bytes();
        let refused = choose_batch_plan(&load(&plain), Some(available)).unwrap_err();
        let told = refused.to_string();

        for part in [
            "for 100 pairs at once (activations ",
            "would fit with microBatchSize",
            "Auto`",
        ] {
            assert!(told.contains(part), "{told}");
        }

        for micro_batch in [None, Some(MicroBatch::AUTO)] {
            let config = config(micro_batch, None);
            let told = choose_batch_plan(&load(&config), Some(NEVER))
                .unwrap_err()
                .to_string();
            assert!(
                told.contains("there are 1 MiB. Even one pair at a time"),
                "{told}"
            );
        }
    }
}
