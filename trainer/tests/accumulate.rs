//! Gradient accumulation: the gradient of the whole batch, whatever the micro-batch.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;

use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::Params;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::model::clip::Clip;
use golden::{GoldenBatch, GoldenModel, assert_close};

/// A golden model with dropout and, where it has any, masked patches; and six samples.
fn model(name: &str) -> (Clip, Params, GoldenBatch) {
    let mut golden = GoldenModel::read(name);
    golden.config.text.hidden_dropout_percent = 20;
    golden.config.text.attention_dropout_percent = 30;
    let (mut clip, params) = golden.model();
    clip.mask_patches(40);

    (clip, params, golden.load_batch(0))
}

/// The loss, the gradient, and the running statistics after it.
fn differentiate(name: &str, frozen: bool, micro_batch: usize) -> (f64, Vec<f32>, Vec<f32>) {
    let (mut clip, mut params, samples) = model(name);
    clip.freeze_image(&mut params, frozen);
    let mut accumulator = GradientAccumulator::new(&clip, &params, 6, micro_batch);
    let batch = samples.batch();
    let dropout = Dropout::new(1, 2, 0);
    let score = accumulator.forward(&mut clip, &mut params, batch, dropout);

    accumulator.backward(&mut clip, &mut params, batch, dropout, &mut ());
    (
        score.loss,
        params.gradients.to_host().into_owned(),
        params.buffers.to_host().into_owned(),
    )
}

#[test]
fn micro_batches_of_any_size_give_the_gradient_of_the_whole() {
    for (name, frozen) in [("vit_b16", false), ("vit_b16", true), ("rn50", true)] {
        let (right, gradient, _) = differentiate(name, frozen, 6);
        for micro_batch in [1, 2, 4, 5] {
            let (loss, found, _) = differentiate(name, frozen, micro_batch);
            assert!(
                (loss - right).abs() < 1e-6,
                "{name}, {micro_batch}: {loss} for {right}"
            );

            assert_close(&format!("{name}, {micro_batch}"), &found, &gradient, 1e-5);
        }
    }
}

#[test]
fn running_statistics_follow_each_micro_batch_once() {
    let (_, _, found) = differentiate("rn50", false, 4);
    let (mut clip, mut params, samples) = model("rn50");
    for (from, to) in [(0, 4), (4, 6)] {
        clip.forward(
            &mut params,
            samples.slice_samples(from, to).batch(),
            Dropout::new(1, 2, 0),
        );
    }

    assert_eq!(found, *params.buffers.to_host());
}
