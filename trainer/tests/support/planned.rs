//! Small models of all kinds, and everything that a stage reserves for them.

use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::ema::WeightEma;
use cnclip_nn::memory::BatchPlan;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};
use cnclip_nn::optimizer::{AdamW, AdamWSettings};
use serde_json::json;

/// A preset with few layers and narrow towers: what sets it apart stays.
pub(crate) fn shrink_preset(architecture: Architecture) -> ModelConfig {
    let mut towers = architecture.published_model().unwrap();
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

pub(crate) fn train_config(model: &ModelConfig) -> TrainConfig {
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
pub(crate) fn allocate_training_state(
    memory: &Memory,
    config: &TrainConfig,
    BatchPlan {
        micro_batch,
        recompute,
    }: BatchPlan,
) -> (Clip, Params, AdamW, WeightEma, GradientAccumulator) {
    let capacity = BatchCapacity {
        batch: micro_batch,
        context: config.context_length as usize,
    };

    let compute = ComputeOptions {
        recompute,
        precision: config.world.precision,
    };

    let (clip, params) = Clip::new_in(memory, &config.model, capacity, compute);
    let settings = AdamWSettings {
        beta_1: 0.9,
        beta_2: 0.9,
        epsilon: 1.0,
        weight_decay: 0.0,
        max_norm: None,
    };

    let adamw = AdamW::new(&params, settings);
    let average = WeightEma::new(&params, 0.5);
    let global_batch = config.global_batch_size as usize;
    let accumulator = GradientAccumulator::new(&clip, &params, global_batch, micro_batch);

    (clip, params, adamw, average, accumulator)
}

/// Fails unless a plan is within a hundredth of what was reserved.
pub(crate) fn assert_near_plan(planned: u64, reserved: u64, what: &str) {
    let planned = planned as f64;
    let reserved = reserved as f64;
    assert!(
        (planned / reserved - 1.0).abs() < 0.01,
        "{what}: {planned} planned, {reserved} reserved"
    );
}
