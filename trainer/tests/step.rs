//! Guarantees of a training step beyond the reference's numbers: dropout that can be drawn again, texts without
//! padding, images as bytes.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;

use cnclip_compute::collective::SingleRank;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::TensorView;
use cnclip_nn::loss::ContrastiveLoss;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{Clip, ClipBatch};
use golden::{BuildClip, GoldenBatch, GoldenModel, assert_close};

const MODEL: &str = "vit_b16";

/// The golden model with dropout and masked patches, and six samples.
fn model() -> (Clip, Params, GoldenBatch) {
    model_with(Clip::new)
}

fn model_with(declare: BuildClip) -> (Clip, Params, GoldenBatch) {
    let mut golden = GoldenModel::read(MODEL);
    golden.config.text.hidden_dropout_percent = 20;
    golden.config.text.attention_dropout_percent = 30;
    let (mut clip, params) = golden.build_with(declare);
    clip.mask_patches(40);
    let samples = golden.load_batch(0);

    (clip, params, samples)
}

/// The loss of one batch, and its gradients.
fn evaluate(
    clip: &mut Clip,
    params: &mut Params,
    samples: &GoldenBatch,
    dropout: Dropout,
) -> (f64, ContrastiveLoss) {
    let count = samples.texts().text_count();
    let mut loss = ContrastiveLoss::new(count, clip.feature_width());
    let scale = clip.logit_scale(params);
    let score = loss.compute_loss(
        clip.forward(params, samples.batch(), dropout),
        scale,
        &SingleRank,
    );

    (score.loss, loss)
}

fn gradients(
    clip: &mut Clip,
    params: &mut Params,
    samples: &GoldenBatch,
    dropout: Dropout,
) -> Vec<f32> {
    let (_, loss) = evaluate(clip, params, samples, dropout);
    params.clear_gradients();
    let count = samples.texts().text_count();
    clip.backward(
        params,
        samples.batch(),
        dropout,
        loss.feature_gradients(0..count),
        &mut (),
    );

    params.gradients.to_host().into_owned()
}

#[test]
fn the_same_key_drops_the_same_and_another_step_drops_others() {
    let (mut clip, mut params, samples) = model();
    let mut loss_at = |step| evaluate(&mut clip, &mut params, &samples, Dropout::new(1, step, 0)).0;
    let first = loss_at(1);
    assert_ne!(first, loss_at(2));
    assert_eq!(first, loss_at(1));
}

#[test]
fn gradients_under_dropout_are_those_of_the_masks_that_were_drawn() {
    let (mut clip, mut params, samples) = model();
    let dropout = Dropout::new(1, 2, 0);
    let gradient = gradients(&mut clip, &mut params, &samples, dropout);
    let values = params.values.to_host().into_owned();

    for segment in params.segments().to_vec() {
        // Along its own gradient a tensor's loss changes by the gradient's norm.
        let segment_gradient = &gradient[segment.range.clone()];
        let norm = segment_gradient
            .iter()
            .map(|g| f64::from(g * g))
            .sum::<f64>()
            .sqrt();

        if norm < 1e-3 {
            continue;
        }

        let step = 2e-3;
        let mut loss_at = |sign: f64| {
            params.values.copy_from(TensorView::Host(&values));
            params
                .values
                .slice_mut(segment.range.clone())
                .update_on_host(|values| {
                    let moved = values.iter_mut().zip(segment_gradient);
                    moved.for_each(|(v, g)| *v += (sign * step * f64::from(*g) / norm) as f32);
                });

            evaluate(&mut clip, &mut params, &samples, dropout).0
        };

        let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
        let error = (slope / norm - 1.0).abs();
        assert!(error < 0.02, "{}: {slope}, expected {norm}", segment.name);
    }
}

#[test]
fn recomputed_activations_give_the_same_gradients_to_the_last_bit() {
    let dropout = Dropout::new(1, 2, 0);
    let [kept, recomputed] = [Clip::new, Clip::with_recompute].map(|declare: BuildClip| {
        let (mut clip, mut params, samples) = model_with(declare);
        gradients(&mut clip, &mut params, &samples, dropout)
    });

    assert!(kept == recomputed && kept.iter().any(|&gradient| gradient != 0.0));
}

#[test]
fn a_frozen_image_tower_gets_no_gradient_and_the_text_tower_the_same() {
    let (mut clip, mut params, samples) = model();
    let dropout = Dropout::new(1, 2, 0);
    let thawed = gradients(&mut clip, &mut params, &samples, dropout);
    clip.freeze_image(&mut params, true);
    let frozen = gradients(&mut clip, &mut params, &samples, dropout);

    for segment in params.segments() {
        assert_eq!(
            segment.frozen,
            segment.name.starts_with("visual."),
            "{}",
            segment.name
        );

        let frozen = &frozen[segment.range.clone()];
        let thawed = &thawed[segment.range.clone()];
        if segment.frozen {
            assert!(
                frozen.iter().all(|&gradient| gradient == 0.0),
                "{}",
                segment.name
            );
        } else {
            assert_eq!(frozen, thawed, "{}", segment.name);
        }
    }
}

#[test]
fn a_text_has_the_same_features_alone_and_in_any_batch() {
    let (mut clip, params, samples) = model();
    let together = clip
        .encode_texts(&params, samples.texts())
        .to_host()
        .into_owned();

    for (index, expected) in together.chunks(clip.feature_width()).enumerate() {
        let alone = samples.slice_samples(index, index + 1);
        let found = clip.encode_texts(&params, alone.texts());
        assert_close("text", &found.to_host(), expected, 1e-5);
    }
}

#[test]
fn bytes_have_the_features_of_their_normalised_values() {
    let (mut clip, mut params, samples) = model();
    let bytes: Vec<u8> = (0..2 * 3 * 64 * 64u32)
        .map(|i| ((i * 2_654_435) >> 9) as u8)
        .collect();

    let mut values = vec![0.0; bytes.len()];
    for (plane, values) in values.chunks_mut(64 * 64).enumerate() {
        PixelBatch::Bytes(&bytes).read_normalized(plane * 64 * 64, plane % 3, values);
    }

    let found = clip
        .encode_images(&mut params, PixelBatch::Bytes(&bytes))
        .to_host()
        .into_owned();

    let right = clip
        .encode_images(&mut params, PixelBatch::Normalized(&values))
        .to_host()
        .into_owned();

    assert_eq!((found.len(), &found), (2 * clip.feature_width(), &right));
    let texts = PackedTexts {
        offsets: &samples.offsets[..3],
        ..samples.texts()
    };

    let batch = ClipBatch {
        pixels: PixelBatch::Bytes(&bytes),
        texts,
    };

    assert_eq!(
        *clip
            .forward(&mut params, batch, Dropout::NONE)
            .images
            .to_host(),
        right
    );
}
