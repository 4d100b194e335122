//! Both towers against the reference's own numbers: features, every gradient, ten steps of training.
#![cfg(test)]

#[path = "support/golden.rs"]
mod golden;

use cnclip::weights::{ModelPart, load_weights};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::{ParamLayout, Params, Segment};
use cnclip_crds::stage::Precision;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::loss::LossOutput;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};
use cnclip_nn::model::towers::TowerCapacity;
use cnclip_nn::model::towers::vit::VisionTransformer;
use cnclip_nn::optimizer::{AdamW, AdamWSettings};
use cnclip_nn::schedule::LearningRateSchedule;
use golden::{GoldenBatch, GoldenModel, assert_close, without_gradient};
use serde_json::Value;

/// The models with golden values.
const MODELS: [&str; 5] = ["vit_b16", "vit_l14", "vit_l14_336", "vit_h14", "rn50"];

/// Those with golden values of a frozen image tower.
const FREEZABLE: [&str; 2] = ["vit_b16", "rn50"];

/// Forward, loss and backward of one batch in micro batches; the gradients are in `params`.
fn differentiate(
    clip: &mut Clip,
    params: &mut Params,
    pairs: &GoldenBatch,
    micro: usize,
) -> LossOutput {
    let count = pairs.texts().text_count();
    let mut accumulator = GradientAccumulator::new(clip, params, count, micro);
    params.clear_gradients();
    let score = accumulator.forward(clip, params, pairs.batch(), Dropout::NONE);

    clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
    accumulator.backward(clip, params, pairs.batch(), Dropout::NONE, &mut ());
    score
}

#[test]
fn features_in_evaluation_are_the_references() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let (mut clip, mut params) = golden.model();
        let pairs = golden.load_batch(0);
        let images = clip
            .encode_images(&mut params, pairs.batch().pixels)
            .to_host()
            .into_owned();

        assert_close(
            name,
            &images,
            &golden.io["eval.image_features"].values,
            1e-5,
        );

        let texts = clip
            .encode_texts(&params, pairs.texts())
            .to_host()
            .into_owned();

        assert_close(name, &texts, &golden.io["eval.text_features"].values, 1e-5);
    }
}

#[test]
fn logits_in_evaluation_and_in_training_are_the_references() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let (mut clip, mut params) = golden.model();
        let pairs = golden.load_batch(0);
        let scale = clip.logit_scale(&params);
        let images = clip
            .encode_images(&mut params, pairs.batch().pixels)
            .to_host()
            .into_owned();

        let texts = clip
            .encode_texts(&params, pairs.texts())
            .to_host()
            .into_owned();

        let found = logits(&images, &texts, clip.feature_width(), scale);
        assert_close(
            name,
            &found,
            &golden.io["eval.logits_per_image"].values,
            1e-5,
        );

        let width = clip.feature_width();
        let batch = pairs.batch();
        let features = clip.forward(&mut params, batch, Dropout::NONE);
        let images = features.images.to_host();
        let texts = features.texts.to_host();
        let found = logits(&images, &texts, width, scale);
        assert_close(
            name,
            &found,
            &golden.io["train.logits_per_image"].values,
            1e-5,
        );
    }
}

/// Every image against every text, in rows of images.
fn logits(images: &[f32], texts: &[f32], width: usize, scale: f32) -> Vec<f32> {
    let dot_product = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let row = |image| {
        texts
            .chunks(width)
            .map(move |text| scale * dot_product(image, text))
    };

    images.chunks(width).flat_map(row).collect()
}

#[test]
fn every_gradient_is_the_references() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let (mut clip, mut params) = golden.model();
        let score = differentiate(
            &mut clip,
            &mut params,
            &golden.load_batch(0),
            golden.load_batch(0).texts().text_count(),
        );

        let right = golden.expect["train_loss"].as_f64().unwrap();
        assert!(
            (score.loss - right).abs() < 1e-5,
            "{name}: {} for {right}",
            score.loss
        );

        let names: Vec<&String> = params
            .segments()
            .iter()
            .map(|segment| &segment.name)
            .collect();

        assert_eq!(names.len(), golden.gradients.len());
        for segment in params.segments() {
            if without_gradient(&segment.name) {
                continue;
            }

            let found = params.gradients.slice(segment.range.clone()).to_host();
            assert_close(
                &segment.name,
                &found,
                &golden.gradients[&segment.name].values,
                1e-4,
            );
        }
    }
}

/// Optimizer and schedule of one of the reference's runs.
fn recipe(expect: &Value) -> (AdamWSettings, LearningRateSchedule) {
    let number = |name: &str| expect[name].as_f64().unwrap();
    let settings = AdamWSettings {
        beta_1: expect["betas"][0].as_f64().unwrap(),
        beta_2: expect["betas"][1].as_f64().unwrap(),
        epsilon: number("eps"),
        weight_decay: number("wd"),
        max_norm: None,
    };

    let peak = number("lr");
    let warmup_steps = number("warmup") as u64;
    (
        settings,
        LearningRateSchedule {
            peak,
            warmup_steps,
            total_steps: number("total_steps") as u64,
        },
    )
}

/// Trains as the reference did, and compares every loss and every final tensor.
fn train(name: &str, run: &str, tolerance: f64, prepare: impl Fn(&mut Clip, &mut Params)) {
    let all = GoldenModel::read(name).load_batch(0).texts().text_count();
    train_in_micro_batches(name, run, tolerance, all, all, prepare);
}

/// The same with the first `count` samples of each batch, `micro_batch` of them at once.
fn train_in_micro_batches(
    name: &str,
    run: &str,
    tolerance: f64,
    count: usize,
    micro_batch: usize,
    prepare: impl Fn(&mut Clip, &mut Params),
) {
    let golden = GoldenModel::read(name);
    let expect = &golden.expect[run];
    let (mut clip, mut params) = golden.model();
    prepare(&mut clip, &mut params);
    let (settings, schedule) = recipe(expect);
    let mut adamw = AdamW::new(&params, settings);

    for step in 0..schedule.total_steps {
        let right = &expect["log"][step as usize];
        let batch = golden.load_batch(step as usize % 3).slice_samples(0, count);
        let score = differentiate(&mut clip, &mut params, &batch, micro_batch);
        let loss = right["loss"].as_f64().unwrap();
        let error = (score.loss / loss - 1.0).abs();

        assert!(error < tolerance, "{name}, {run}, step {step}: {error}");
        let rate = schedule.learning_rate(step);
        assert!(
            (rate - right["lr"].as_f64().unwrap()).abs() < 1e-12,
            "{run}, step {step}"
        );

        adamw.step(&mut params, step, rate).unwrap();
        clip.clamp_logit_scale(&mut params);
        let scale = f64::from(params.value_by_name("logit_scale").unwrap()[0]);
        let right = right["logit_scale_after"].as_f64().unwrap();
        assert!(
            (scale - right).abs() < tolerance,
            "{run}, step {step}: {scale} for {right}"
        );
    }

    compare_final(&params, &expect["final_sum_abssum_sqsum"], 10.0 * tolerance);
}

fn compare_final(params: &Params, expect: &Value, tolerance: f64) {
    let compared = |segment: &Segment| !without_gradient(&segment.name) && !counts(&segment.name);
    for (segment, values) in params
        .named_tensors()
        .filter(|(segment, _)| compared(segment))
    {
        let values = values.to_host();
        let sum = |f: fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>();
        let found = [sum(|v| v), sum(f64::abs), sum(|v| v * v)];

        for (at, found) in found.iter().enumerate() {
            let right = expect[&segment.name][at].as_f64().unwrap();
            let scale = expect[&segment.name][1].as_f64().unwrap();
            let error = (found - right).abs() / scale.max(1e-6);
            assert!(
                error < tolerance,
                "{}[{at}]: {found}, expected {right}",
                segment.name
            );
        }
    }
}

/// Batches that a normalisation has seen: an integer in the reference's files, and not in its sums.
fn counts(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

#[test]
fn running_statistics_follow_training_and_rest_otherwise() {
    let golden = GoldenModel::read("rn50");
    for (frozen, batches) in [(false, 1.0), (true, 0.0)] {
        let (mut clip, mut params) = golden.model();
        clip.freeze_image(&mut params, frozen);
        let before = params.buffers.to_host().into_owned();
        let pairs = golden.load_batch(0);
        clip.encode_images(&mut params, pairs.batch().pixels);
        assert_eq!(*params.buffers.to_host(), before);
        clip.forward(&mut params, pairs.batch(), Dropout::NONE);
        assert_eq!(*params.buffers.to_host() == before, frozen);

        for (segment, values) in params
            .named_tensors()
            .filter(|(segment, _)| counts(&segment.name))
        {
            assert_eq!(*values.to_host(), [batches], "{}", segment.name);
        }
    }
}

#[test]
fn ten_steps_of_training_are_the_references() {
    for name in MODELS {
        train(name, "adamw", 1e-4, |_, _| {});
    }
}

#[test]
fn ten_steps_with_a_frozen_image_tower_are_the_references() {
    for name in FREEZABLE {
        train(name, "adamw_freeze_vision", 1e-4, |clip, params| {
            clip.freeze_image(params, true)
        });
    }
}

#[test]
fn a_logit_scale_beyond_its_bound_is_clamped_as_the_reference_does() {
    // At this scale rounding alone moves the reference's own losses by 2.5e-4.
    train("vit_b16", "adamw_clamp", 2e-3, |_, params| {
        let range = params
            .segments()
            .iter()
            .find(|s| s.name == "logit_scale")
            .unwrap()
            .range
            .clone();

        params
            .values
            .slice_mut(range)
            .update_on_host(|scale| scale.fill(4.7));
    });
}

#[test]
fn ten_steps_in_micro_batches_are_the_references() {
    // The reference adds the gradient of the logit scale once for each micro-batch, which AdamW hides.
    train_in_micro_batches("vit_b16", "adamw_accum", 1e-4, 4, 2, |_, _| {});
}

#[test]
fn features_of_images_with_masked_patches_are_the_references() {
    let golden = GoldenModel::read("vit_b16");
    let sizes = golden.config.image.vit.as_ref().unwrap();
    let mut layout = ParamLayout::default();
    let capacity = TowerCapacity {
        batch: 6,
        recompute: false,
    };

    let mut vit = VisionTransformer::declare_params(&mut layout, sizes, 64, 32, capacity);
    let mut params = layout.allocate_params();

    for (segment, mut values) in params.named_tensors_mut() {
        let stored = golden.weights.get(&segment.name).unwrap();
        values
            .overwrite_with(|values| stored.read_into(values))
            .unwrap();
    }

    // The reference keeps the patches that draw least.
    let noise = golden.io["flip.noise"].values.chunks(16);
    let visible_patches = noise.flat_map(|noise| {
        let mut patches: Vec<u32> = (0..16).collect();
        patches.sort_by(|&a, &b| noise[a as usize].total_cmp(&noise[b as usize]));
        patches.truncate(8);
        patches
    });

    let pairs = golden.load_batch(0);
    let mut features = vec![9.0; 6 * 32];
    let visible_patches: Vec<u32> = visible_patches.collect();
    vit.forward_visible(
        params.values.view(),
        pairs.batch().pixels,
        &visible_patches,
        (&mut features).into(),
    );

    assert_close(
        "features",
        &features,
        &golden.io["flip.image_raw"].values,
        1e-5,
    );
}

#[test]
fn ten_steps_in_bfloat16_stay_near_the_references_and_leave_the_weights_in_fp32() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let compute = ComputeOptions {
            precision: Precision::Bf16,
            ..ComputeOptions::default()
        };

        let capacity = BatchCapacity {
            batch: 6,
            context: 20,
        };

        let (mut clip, mut params) = Clip::with_options(&golden.config, capacity, compute);
        load_weights(&mut params, &golden.weights, ModelPart::All).unwrap();
        let expect = &golden.expect["adamw"];
        let mut rounded = false;
        let (settings, schedule) = recipe(expect);
        let mut adamw = AdamW::new(&params, settings);

        for step in 0..schedule.total_steps {
            let right = expect["log"][step as usize]["loss"].as_f64().unwrap();
            let pairs = golden.load_batch(step as usize % 3);
            let score = differentiate(&mut clip, &mut params, &pairs, pairs.texts().text_count());
            let error = (score.loss / right - 1.0).abs();
            // PyTorch's autocast moves the reference's own losses by up to 5 %.
            assert!(
                error < 0.1,
                "{name}, step {step}: {} for {right}",
                score.loss
            );

            rounded |= error > 1e-4;
            adamw
                .step(&mut params, step, schedule.learning_rate(step))
                .unwrap();
            clip.clamp_logit_scale(&mut params);
        }

        assert!(rounded, "{name}: nothing shows of bfloat16");
        let exact = |value: &f32| half::bf16::from_f32(*value).to_f32() == *value;
        let exact = params
            .values
            .to_host()
            .iter()
            .filter(|value| exact(value))
            .count();

        assert!(
            exact * 10 < params.values.len(),
            "{name}: {exact} weights are bfloat16"
        );
    }
}
