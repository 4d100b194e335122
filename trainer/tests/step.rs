//! What a training step promises beyond the reference's numbers: dropout that can be made again,
//! captions without padding, pictures as bytes.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;

use cnclip_compute::collective::Alone;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::View;
use cnclip_nn::loss::ContrastiveLoss;
use cnclip_nn::model::Texts;
use cnclip_nn::model::clip::{Batch, Clip};
use golden::{Declare, Golden, Pairs, assert_close};

const MODEL: &str = "vit_b16";

/// The golden model with dropout and masked patches, and six pairs.
fn model() -> (Clip, Params, Pairs) {
    declared(Clip::new)
}

fn declared(declare: Declare) -> (Clip, Params, Pairs) {
    let mut golden = Golden::read(MODEL);
    golden.config.text.hidden_dropout_percent = 20;
    golden.config.text.attention_dropout_percent = 30;
    let (mut clip, params) = golden.declared(declare);
    clip.mask_patches(40);
    let pairs = golden.pairs(0);

    (clip, params, pairs)
}

/// The loss of one batch, and what it found.
fn evaluate(
    clip: &mut Clip,
    params: &mut Params,
    pairs: &Pairs,
    dropout: Dropout,
) -> (f64, ContrastiveLoss) {
    let count = pairs.texts().count();
    let mut loss = ContrastiveLoss::new(count, clip.features());
    let scale = clip.logit_scale(params);
    let score = loss.evaluate(clip.forward(params, pairs.batch(), dropout), scale, &Alone);

    (score.loss, loss)
}

fn gradients(clip: &mut Clip, params: &mut Params, pairs: &Pairs, dropout: Dropout) -> Vec<f32> {
    let (_, loss) = evaluate(clip, params, pairs, dropout);
    params.clear_gradients();
    let count = pairs.texts().count();
    clip.backward(
        params,
        pairs.batch(),
        dropout,
        loss.gradients(0..count),
        &mut (),
    );

    params.gradients.read().into_owned()
}

#[test]
fn the_same_key_drops_the_same_and_another_step_drops_others() {
    let (mut clip, mut params, pairs) = model();
    let mut at = |step| evaluate(&mut clip, &mut params, &pairs, Dropout::new(1, step, 0)).0;
    let first = at(1);
    assert_ne!(first, at(2));
    assert_eq!(first, at(1));
}

#[test]
fn gradients_under_dropout_are_those_of_the_masks_that_were_drawn() {
    let (mut clip, mut params, pairs) = model();
    let dropout = Dropout::new(1, 2, 0);
    let gradient = gradients(&mut clip, &mut params, &pairs, dropout);
    let values = params.values.read().into_owned();

    for segment in params.segments().to_vec() {
        // Along its own gradient a tensor's loss changes by the gradient's length.
        let own = &gradient[segment.range.clone()];
        let length = own.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();

        if length < 1e-3 {
            continue;
        }

        let step = 2e-3;
        let mut at = |sign: f64| {
            params.values.copy_from(View::Host(&values));
            params
                .values
                .part_mut(segment.range.clone())
                .edit(|values| {
                    let moved = values.iter_mut().zip(own);
                    moved.for_each(|(v, g)| *v += (sign * step * f64::from(*g) / length) as f32);
                });

            evaluate(&mut clip, &mut params, &pairs, dropout).0
        };

        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        let error = (slope / length - 1.0).abs();
        assert!(error < 0.02, "{}: {slope}, expected {length}", segment.name);
    }
}

#[test]
fn what_is_computed_again_gives_the_same_gradients_to_the_last_bit() {
    let dropout = Dropout::new(1, 2, 0);
    let [kept, again] = [Clip::new, Clip::recomputing].map(|declare: Declare| {
        let (mut clip, mut params, pairs) = declared(declare);
        gradients(&mut clip, &mut params, &pairs, dropout)
    });

    assert!(kept == again && kept.iter().any(|&gradient| gradient != 0.0));
}

#[test]
fn a_frozen_image_tower_gets_no_gradient_and_the_text_tower_the_same() {
    let (mut clip, mut params, pairs) = model();
    let dropout = Dropout::new(1, 2, 0);
    let thawed = gradients(&mut clip, &mut params, &pairs, dropout);
    clip.freeze_image(&mut params, true);
    let frozen = gradients(&mut clip, &mut params, &pairs, dropout);

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
fn a_caption_is_worth_the_same_alone_and_in_any_company() {
    let (mut clip, params, pairs) = model();
    let together = clip
        .encode_texts(&params, pairs.texts())
        .read()
        .into_owned();

    for (at, expected) in together.chunks(clip.features()).enumerate() {
        let alone = pairs.part(at, at + 1);
        let found = clip.encode_texts(&params, alone.texts());
        assert_close("caption", &found.read(), expected, 1e-5);
    }
}

#[test]
fn bytes_are_worth_what_their_normalised_values_are() {
    let (mut clip, mut params, pairs) = model();
    let bytes: Vec<u8> = (0..2 * 3 * 64 * 64u32)
        .map(|i| ((i * 2_654_435) >> 9) as u8)
        .collect();

    let mut values = vec![0.0; bytes.len()];
    for (plane, values) in values.chunks_mut(64 * 64).enumerate() {
        Pixels::Bytes(&bytes).read(plane * 64 * 64, plane % 3, values);
    }

    let found = clip
        .encode_images(&mut params, Pixels::Bytes(&bytes))
        .read()
        .into_owned();

    let right = clip
        .encode_images(&mut params, Pixels::Normalized(&values))
        .read()
        .into_owned();

    assert_eq!((found.len(), &found), (2 * clip.features(), &right));
    let texts = Texts {
        offsets: &pairs.offsets[..3],
        ..pairs.texts()
    };

    let batch = Batch {
        pixels: Pixels::Bytes(&bytes),
        texts,
    };

    assert_eq!(
        *clip.forward(&mut params, batch, Dropout::NONE).0.read(),
        right
    );
}
