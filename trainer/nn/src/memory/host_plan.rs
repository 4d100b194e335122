//! Plans the host memory of a worker: the shares of its ranks, and how large their caches may be. Pure: how much memory
//! there is is an argument.

use super::batch_plan::{DoesNotFit, format_mebibytes};
use super::{BatchPlan, HOST_OVERHEAD_BYTES, MAX_DECODED_BYTES, MemoryEstimate, MemoryInputs};

/// What a device takes of host memory: its context, its libraries, and the pages that it is uploaded through.
const DEVICE_HOST_BYTES: u64 = 320 << 20;

/// A cache that is smaller reads shards again and again: the shard that is read and the one that is fetched, or so much.
const MIN_SHARD_CACHE_BYTES: u64 = 256 << 20;

/// What is cached by each rank, at most.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBudget {
    /// Shards.
    pub shard_bytes: u64,
    /// Decoded images.
    pub image_bytes: u64,
}

impl CacheBudget {
    fn total_bytes(self) -> u64 {
        self.shard_bytes + self.image_bytes
    }
}

/// The host memory of a worker with all its ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// Kinds and their bytes.
    pub parts: Vec<(&'static str, u64)>,
    /// Of each rank.
    pub cache: CacheBudget,
}

impl HostPlan {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Plans the host memory of a worker: caches as large as they are of use, or as small as there is memory.
///
/// # Errors
/// If there is too little for caches of the least size; the message lists all parts.
pub fn plan_host_memory(
    inputs: &MemoryInputs<'_>,
    plan: BatchPlan,
    available: Option<u64>,
) -> Result<HostPlan, DoesNotFit> {
    let ranks = inputs.config.world.devices.max(1) as u64;
    let fixed = fixed_parts(inputs, plan, ranks);
    let fixed_bytes: u64 = fixed.iter().map(|(_, bytes)| bytes).sum();
    let smallest = smallest_cache(inputs);
    let with_cache = |cache: CacheBudget| {
        let parts = [
            ("cached shards", ranks * cache.shard_bytes),
            ("cached images", ranks * cache.image_bytes),
        ];

        let parts = fixed.iter().copied().chain(parts);
        HostPlan {
            parts: parts.collect(),
            cache,
        }
    };

    let least = fixed_bytes + ranks * smallest.total_bytes();
    let Some(available) = available else {
        return Ok(with_cache(largest_cache(inputs)));
    };

    if available < least {
        let message = too_little_message(inputs, &with_cache(smallest), available);
        return Err(DoesNotFit(message));
    }

    let room = (available - fixed_bytes) / ranks;
    Ok(with_cache(shrink_cache(
        largest_cache(inputs),
        smallest,
        room,
    )))
}

/// Everything but the caches.
fn fixed_parts(inputs: &MemoryInputs<'_>, plan: BatchPlan, ranks: u64) -> Vec<(&'static str, u64)> {
    let host = MemoryInputs {
        device: None,
        ..*inputs
    };

    let estimate = host.estimate_memory(plan);
    let of_ranks = match inputs.device {
        Some(_) => ("devices", ranks * DEVICE_HOST_BYTES),
        None => ("model and activations", ranks * computing_bytes(&estimate)),
    };

    vec![
        ("program", HOST_OVERHEAD_BYTES),
        of_ranks,
        ("batches", ranks * estimate.batches),
        ("decoding", ranks * estimate.decoding),
        ("validation", ranks * estimate.validation),
        // Rank 0 alone writes.
        ("checkpoint", estimate.checkpoint),
    ]
}

fn computing_bytes(estimate: &MemoryEstimate) -> u64 {
    let MemoryEstimate {
        batches,
        decoding,
        validation,
        checkpoint,
        program,
        cache,
        ..
    } = *estimate;

    estimate.total_bytes() - batches - decoding - validation - checkpoint - program - cache
}

/// Shards of two shuffle windows, the current and the next, and decoded images where all shards fit.
pub(super) fn largest_cache(inputs: &MemoryInputs<'_>) -> CacheBudget {
    let window_bytes = 2 * inputs.shuffle_window;
    let decoded = if inputs.shard_bytes <= window_bytes {
        super::DECODE_EXPANSION * inputs.shard_bytes
    } else {
        0
    };

    CacheBudget {
        shard_bytes: inputs.shard_bytes.min(window_bytes),
        image_bytes: decoded.min(MAX_DECODED_BYTES),
    }
}

fn smallest_cache(inputs: &MemoryInputs<'_>) -> CacheBudget {
    let two_shards = 2 * inputs.host.largest_shard_bytes;
    CacheBudget {
        shard_bytes: inputs
            .shard_bytes
            .min(two_shards.max(MIN_SHARD_CACHE_BYTES)),
        image_bytes: 0,
    }
}

/// Images are given up first: to decode one again costs less than to fetch its shard again.
fn shrink_cache(largest: CacheBudget, smallest: CacheBudget, room: u64) -> CacheBudget {
    let shard_bytes = largest.shard_bytes.min(room).max(smallest.shard_bytes);
    let left = room.saturating_sub(shard_bytes);
    CacheBudget {
        shard_bytes,
        // Images of a data set that does not fit would be forgotten before they are used again.
        image_bytes: match shard_bytes == largest.shard_bytes {
            true => largest.image_bytes.min(left),
            false => 0,
        },
    }
}

fn too_little_message(inputs: &MemoryInputs<'_>, least: &HostPlan, available: u64) -> String {
    let ranks = inputs.config.world.devices.max(1);
    let rows = least.parts.iter().filter(|(_, bytes)| *bytes > 0);
    let rows: Vec<String> = rows
        .map(|(part, bytes)| format!("  {part:<21} {:>10}", format_mebibytes(*bytes)))
        .collect();

    let fewer = match ranks {
        1 => "share the batch among more workers",
        _ => "take fewer devices per worker",
    };

    format!(
        "A worker needs {} of host memory for {ranks} rank(s), and its limit is {}:\n{}\nRaise \
         spec.workers.resources.limits.memory to {}, or {fewer}.",
        format_mebibytes(least.total_bytes()),
        format_mebibytes(available),
        rows.join("\n"),
        format_mebibytes(least.total_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;
    use cnclip_crds::stage::Precision;
    use cnclip_crds::trainer_config::TrainConfig;
    use serde_json::json;

    use super::super::HostInputs;
    use super::*;

    const MIB: u64 = 1 << 20;
    const PLAN: BatchPlan = BatchPlan {
        micro_batch: 16,
        recompute: true,
    };

    fn config(devices: i32) -> TrainConfig {
        let mut config: TrainConfig = serde_json::from_value(json!({
            "run": {"name": "run", "stage": "train"}, "model": Architecture::VitB16.published_model(),
            "contextLength": 52, "dataset": "nowhere", "length": {"steps": 1}, "globalBatchSize": 128,
            "checkpoint": {"everySteps": 1, "keep": 1}, "artifacts": "nowhere",
            "optimizer": {"learningRate": 1.0, "warmupSteps": 0, "weightDecay": 0.0, "beta1": 0.9,
                "beta2": 0.9, "epsilon": 1.0},
        }))
        .unwrap();

        config.world.devices = devices;
        config
    }

    fn inputs(config: &TrainConfig, device: Option<Precision>) -> MemoryInputs<'_> {
        MemoryInputs {
            config,
            local_batch_size: 16,
            shard_bytes: 100 << 30,
            shuffle_window: 1 << 30,
            teacher: None,
            threads: 8,
            device,
            host: HostInputs {
                loader_threads: 2,
                validation_items: 30_000,
                largest_shard_bytes: 128 << 20,
            },
        }
    }

    #[test]
    fn caches_are_as_large_as_there_is_memory_down_to_the_least() {
        let config = config(8);
        let inputs = inputs(&config, Some(Precision::Bf16));
        let unlimited = plan_host_memory(&inputs, PLAN, None).unwrap();
        assert_eq!(unlimited.cache.shard_bytes, 2 << 30);
        let wanted = unlimited.total_bytes();
        // Less than is wanted by so much for each rank, and the caches then.
        let table = [(0, 2048), (1, 2047), (1024, 1024), (1792, 256)];

        for (less, expected) in table {
            let available = wanted - 8 * less * MIB;
            let found = plan_host_memory(&inputs, PLAN, Some(available)).unwrap();
            assert_eq!(found.cache.shard_bytes, expected * MIB, "{less} MiB less");
            assert!(found.total_bytes() <= available);
        }

        let available = wanted - 8 * 1792 * MIB - 1;
        let message = plan_host_memory(&inputs, PLAN, Some(available))
            .unwrap_err()
            .0;
        for part in [
            "8 rank(s)",
            "devices",
            "decoding",
            "validation",
            "checkpoint",
            "cached shards",
            "limits.memory",
            "fewer devices",
        ] {
            assert!(message.contains(part), "no {part} in: {message}");
        }
    }

    #[test]
    fn images_are_given_up_before_shards() {
        let config = config(1);
        let small = MemoryInputs {
            shard_bytes: 512 * MIB,
            ..inputs(&config, None)
        };

        let wanted = plan_host_memory(&small, PLAN, None).unwrap();
        assert_eq!(
            wanted.cache,
            CacheBudget {
                shard_bytes: 512 * MIB,
                image_bytes: 512 * MIB
            }
        );
        let table = [(100, 512, 412), (512, 512, 0), (600, 424, 0)];
        for (less, shards, images) in table {
            let available = wanted.total_bytes() - less * MIB;
            let found = plan_host_memory(&small, PLAN, Some(available))
                .unwrap()
                .cache;
            let expected = CacheBudget {
                shard_bytes: shards * MIB,
                image_bytes: images * MIB,
            };
            assert_eq!(found, expected, "{less} MiB less");
        }
    }

    #[test]
    fn parts_grow_with_the_ranks_but_for_program_and_checkpoint() {
        for device in [None, Some(Precision::Fp32)] {
            let [one, eight] = [1, 8].map(|devices| {
                let config = config(devices);
                plan_host_memory(&inputs(&config, device), PLAN, None)
                    .unwrap()
                    .parts
            });

            for ((part, one), (_, eight)) in one.into_iter().zip(eight) {
                let factor = if matches!(part, "program" | "checkpoint") {
                    1
                } else {
                    8
                };
                assert_eq!(eight, factor * one, "{part} on {device:?}");
            }
        }
    }
}
