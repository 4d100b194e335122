//! Small models of all kinds, and everything that a stage reserves for them.

use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::run_config::TrainConfig;
use cnclip_nn::accumulate::Accumulator;
use cnclip_nn::average::Average;
use cnclip_nn::memory::Way;
use cnclip_nn::model::clip::{Capacity, Clip, Compute};
use cnclip_nn::optimizer::{AdamW, Settings};
use serde_json::json;

/// A preset with few layers and narrow towers: what sets it apart stays.
pub(crate) fn shrunk(architecture: Architecture) -> ModelConfig {
    let mut towers = architecture.towers().unwrap();
    if let Some(vit) = &mut towers.image.vit {
        (vit.layers, vit.width) = (3, 2 * vit.head_width);
        towers.image.resolution = 5 * vit.patch_size;
    }

    if let Some(resnet) = &mut towers.image.resnet {
        (resnet.layers, resnet.width) = (vec![2, 1, 1, 1], 16);
        towers.image.resolution = 96;
    }

    let text = &mut towers.text;
    let head = text.width / text.heads;
    (text.layers, text.heads, text.width, text.intermediate) = (3, 2, 2 * head, 300);
    (text.vocab_size, text.positions, towers.embed_dim) = (1000, 24, 64);

    towers
}

pub(crate) fn stage(model: &ModelConfig) -> TrainConfig {
    serde_json::from_value(json!({
        "run": {"name": "run", "stage": "train"}, "model": model, "contextLength": 20, "dataset": "nowhere",
        "length": {"steps": 1}, "globalBatchSize": 24, "checkpoint": {"everySteps": 1, "keep": 1},
        "optimizer": {"learningRate": 1.0, "warmupSteps": 0, "weightDecay": 0.0, "beta1": 0.9, "beta2": 0.9,
            "epsilon": 1.0, "averageDecay": 0.5},
        "artifacts": "nowhere",
    }))
    .unwrap()
}

/// Everything of size that a rank reserves.
pub(crate) fn reserve(
    memory: &Memory,
    config: &TrainConfig,
    Way {
        micro_batch,
        recompute,
    }: Way,
) -> (Clip, Params, AdamW, Average, Accumulator) {
    let capacity = Capacity {
        batch: micro_batch,
        context: config.context_length as usize,
    };

    let compute = Compute {
        recompute,
        precision: config.world.precision,
    };

    let (clip, params) = Clip::within(memory, &config.model, capacity, compute);
    let settings = Settings {
        beta_1: 0.9,
        beta_2: 0.9,
        epsilon: 1.0,
        weight_decay: 0.0,
        max_norm: None,
    };

    let adamw = AdamW::new(&params, settings);
    let average = Average::new(&params, 0.5);
    let batches = (config.global_batch_size as usize, micro_batch);
    let accumulator = Accumulator::new(&clip, &params, batches);

    (clip, params, adamw, average, accumulator)
}

/// Fails unless a plan is within a hundredth of what was reserved.
pub(crate) fn near(planned: u64, reserved: u64, what: &str) {
    let planned = planned as f64;
    let reserved = reserved as f64;
    assert!(
        (planned / reserved - 1.0).abs() < 0.01,
        "{what}: {planned} planned, {reserved} reserved"
    );
}
