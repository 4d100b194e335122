//! A whole run on a device is the run on the host, but for rounding.

use std::path::Path;

use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage_with_memory;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::VitConfig;
use cnclip_crds::stage::{DuplicatePolicy, MicroBatch};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};

use crate::same::losses;
use crate::small;
use crate::support::memory;

/// A vision transformer in micro-batches with masked patches, dropout, a teacher, an EMA and gradient clipping.
pub(crate) fn config(folder: &Path, name: &str, distill: bool) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.model.image.resnet = None;
    config.model.image.vit = Some(VitConfig {
        layers: 2,
        width: 12,
        patch_size: 8,
        head_width: 6,
    });

    config.global_batch_size = 6;
    config.micro_batch_size = Some(MicroBatch::Pairs(4));
    config.masked_patches_percent = 50;
    config.gradient_checkpointing = Some(true);
    config.optimizer.average_decay = Some(0.9);
    config.optimizer.max_gradient_norm = Some(0.5);
    config.duplicates = DuplicatePolicy::Positives;
    if distill {
        let teacher = small::stage_uri(folder, "teacher");
        config.distillation = Some(DistillationConfig {
            teacher,
            weight: 2.0,
        });
    }

    config
}

pub(crate) fn run(config: &TrainConfig, memory: &Memory) {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    train_stage_with_memory(config, &reporter, || false, &|_| Ok(memory.clone())).unwrap();
}

#[test]
fn a_run_is_that_of_the_host() {
    use cnclip_compute::device::DType::{Bf16, F32};
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(&config(folder, "teacher", false), &Memory::Host);
    run(&config(folder, "host", true), &Memory::Host);
    let right = losses(folder, "host");

    assert!(right.len() as u64 >= small::STEPS, "{right:?}");
    for (name, format, bound) in [("fp32", F32, 1e-4), ("bf16", Bf16, 5e-2)] {
        run(&config(folder, name, true), &memory(format));
        let found = losses(folder, name);
        assert_eq!(found.len(), right.len());

        for (found, right) in found.iter().zip(&right) {
            assert!(
                (found / right - 1.0).abs() < bound,
                "{name}: {found}, expected {right}"
            );
        }
    }

    let right = small::final_tensors(folder, "host");
    for (name, found) in small::final_tensors(folder, "fp32") {
        let largest = right[&name]
            .values
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()));

        // A key's bias has no gradient but that of rounding, of which AdamW makes steps.
        let exempt = name.ends_with("in_proj_bias") || name.ends_with("self.key.bias");
        for (found, right) in found
            .values
            .iter()
            .zip(&right[&name].values)
            .filter(|_| !exempt)
        {
            let error = (found - right).abs();
            assert!(
                error <= 1e-3 * largest + 2e-5,
                "{name}: {found}, expected {right}"
            );
        }
    }
}
