//! Runs that, between them, have every option with a state that a checkpoint must hold.

use std::path::Path;

use cnclip_crds::model::{ImageTower, VitConfig};
use cnclip_crds::stage::{DuplicatePolicy, FrozenTower, MicroBatch, Precision};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};

use crate::small;

/// The run whose weights the teacher of [`masked_vit`] has.
pub(crate) const TEACHER: &str = "teacher";

/// A ResNet: EMA, batch normalization, dropout, accumulation, duplicates, gradient clipping.
pub(crate) fn resnet(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = base(folder, name, ranks);
    config.duplicates = DuplicatePolicy::Positives;
    config.optimizer.max_gradient_norm = Some(0.5);

    config
}

/// The same with statistics of the batches of all ranks, in bfloat16.
#[allow(dead_code, reason = "not every test program stops every run")]
pub(crate) fn synchronized_resnet(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = resnet(folder, name, ranks);
    config.synchronize_batch_norm = true;
    // Batch normalization over all ranks needs the whole batch at once.
    config.micro_batch_size = None;
    config.world.precision = Precision::Bf16;

    config
}

/// A vision transformer: masked patches, distillation, gradient checkpointing, EMA.
pub(crate) fn masked_vit(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = base(folder, name, ranks);
    config.model.image = small_vit();
    config.masked_patches_percent = 50;
    config.gradient_checkpointing = Some(true);
    config.distillation = Some(DistillationConfig {
        teacher: small::stage_uri(folder, TEACHER),
        weight: 2.0,
    });

    config
}

/// A frozen image tower, as in the first stage of pretraining, and a micro-batch that the trainer chooses.
#[allow(dead_code, reason = "not every test program stops every run")]
pub(crate) fn frozen_vit(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = base(folder, name, ranks);
    config.model.image = small_vit();
    config.freeze = FrozenTower::Image;
    config.micro_batch_size = Some(MicroBatch::AUTO);

    config
}

fn base(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.global_batch_size = 6;
    config.optimizer.average_decay = Some(0.9);
    config.micro_batch_size = Some(MicroBatch::Pairs(1));
    config.world.devices = ranks;

    config
}

fn small_vit() -> ImageTower {
    ImageTower {
        resolution: 32,
        resnet: None,
        vit: Some(VitConfig {
            layers: 1,
            width: 8,
            patch_size: 8,
            head_width: 4,
        }),
    }
}

/// The files of the newest checkpoint that hold tensors.
pub(crate) fn tensor_files(folder: &Path, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let newest = small::newest_checkpoint(folder, name);
    [
        "weights.safetensors",
        "unaveraged.safetensors",
        "moments.safetensors",
    ]
    .map(|file| (file, std::fs::read(newest.join(file)).unwrap()))
    .into()
}
