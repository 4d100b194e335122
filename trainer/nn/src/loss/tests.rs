use cnclip_compute::collective::SingleRank;
use cnclip_compute::digest::Fingerprint;
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::random::{derive_key, normal_f32};
use cnclip_distributed::run_on_ranks;

use super::*;

const PAIRS: usize = 37;
const WIDTH: usize = 11;

fn features(seed: u64) -> Vec<f32> {
    let raw: Vec<f32> = (0..PAIRS * WIDTH)
        .map(|i| normal_f32(derive_key(seed, i as u64)))
        .collect();

    let mut unit = raw.clone();
    l2_normalize::forward(WIDTH, (&raw).into(), (&mut unit).into());
    unit
}

/// Right for each other are two pairs with the same number for a picture or for a caption.
type Pair = (u64, u64);

fn alone() -> Vec<Pair> {
    (0..PAIRS as u64).map(|i| (i, i)).collect()
}

/// Pictures with several captions, captions of several pictures, and a chain of both.
fn duplicated() -> Vec<Pair> {
    let mut pairs = alone();
    for (pair, of) in [(5, 3), (9, 3), (36, 0)] {
        pairs[pair].0 = pairs[of].0;
    }

    for (pair, of) in [(11, 9), (20, 9), (5, 3)] {
        pairs[pair].1 = pairs[of].1;
    }

    pairs
}

fn read(features: ImageTextFeatures<'_>) -> (Vec<f32>, Vec<f32>) {
    (
        features.images.to_host().into_owned(),
        features.texts.to_host().into_owned(),
    )
}

fn host_features<'a>(images: &'a [f32], texts: &'a [f32]) -> ImageTextFeatures<'a> {
    ImageTextFeatures {
        images: TensorView::Host(images),
        texts: TensorView::Host(texts),
    }
}

fn mean_cross_entropy(from: &[f32], to: &[f32], scale: f64, pairs: &[Pair]) -> f64 {
    let cosine = |i: usize, j: usize| -> f64 {
        let pair = from[i * WIDTH..][..WIDTH]
            .iter()
            .zip(&to[j * WIDTH..][..WIDTH]);

        scale
            * pair
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>()
    };

    let row = |i: usize| {
        let right = |j: &usize| pairs[i].0 == pairs[*j].0 || pairs[i].1 == pairs[*j].1;
        let right: Vec<usize> = (0..PAIRS).filter(right).collect();
        let mean = right.iter().map(|&j| cosine(i, j)).sum::<f64>() / right.len() as f64;
        (0..PAIRS).map(|j| cosine(i, j).exp()).sum::<f64>().ln() - mean
    };

    (0..PAIRS).map(row).sum::<f64>() / PAIRS as f64
}

fn right_loss(images: &[f32], texts: &[f32], scale: f64, pairs: &[Pair]) -> f64 {
    let both = mean_cross_entropy(images, texts, scale, pairs)
        + mean_cross_entropy(texts, images, scale, pairs);
    both / 2.0
}

fn fingerprints(pairs: &[Pair]) -> Vec<Fingerprint> {
    pairs
        .iter()
        .map(|&(image, text)| Fingerprint { image, text })
        .collect()
}

#[test]
fn the_loss_and_its_gradients_agree_with_the_formula_in_double_precision() {
    let images = features(1);
    let texts = features(2);
    let scale = 14.3;

    for pairs in [alone(), duplicated()] {
        let mut loss = ContrastiveLoss::new(PAIRS, WIDTH);
        loss.targets.match_equal(&fingerprints(&pairs));
        let right_loss =
            |images: &[f32], texts: &[f32], scale| right_loss(images, texts, scale, &pairs);
        let score = loss.compute_loss(host_features(&images, &texts), scale, &SingleRank);
        let right = right_loss(&images, &texts, scale.into());

        assert!(
            (score.loss - right).abs() < 1e-6,
            "{} for {right}",
            score.loss
        );

        let step = 1e-4f64;
        let up = step.exp();
        let down = (-step).exp();
        let right = (right_loss(&images, &texts, f64::from(scale) * up)
            - right_loss(&images, &texts, f64::from(scale) * down))
            / (2.0 * step);

        assert!((score.logit_scale_gradient - right).abs() < 1e-5, "{right}");
        let (dimages, dtexts) = read(loss.feature_gradients(0..PAIRS));
        for at in [
            0,
            17,
            5 * WIDTH,
            9 * WIDTH + 4,
            20 * WIDTH + 1,
            PAIRS * WIDTH - 1,
        ] {
            let nudged = |features: &[f32], by: f32| {
                let mut features = features.to_vec();
                features[at] += by;
                features
            };
            let step = 1e-2f32;
            let slope = |f: &dyn Fn(f32) -> f64| (f(step) - f(-step)) / (2.0 * f64::from(step));
            let right = slope(&|by| right_loss(&nudged(&images, by), &texts, scale.into()));
            assert!(
                (f64::from(dimages[at]) - right).abs() < 1e-4,
                "{} for {right}",
                dimages[at]
            );
            let right = slope(&|by| right_loss(&images, &nudged(&texts, by), scale.into()));
            assert!(
                (f64::from(dtexts[at]) - right).abs() < 1e-4,
                "{} for {right}",
                dtexts[at]
            );
        }
    }
}

#[test]
fn a_batch_without_duplicates_is_worth_the_same_to_the_last_bit() {
    let images = features(1);
    let texts = features(2);
    let mut plain = ContrastiveLoss::new(PAIRS, WIDTH);
    let mut matched = ContrastiveLoss::new(PAIRS, WIDTH);
    // What an earlier batch was like leaves no trace.
    matched.targets.match_equal(&fingerprints(&duplicated()));
    let pairs: Vec<Pair> = (0..PAIRS as u64)
        .map(|i| (i * 7 % 37, i * 5 % 37))
        .collect();

    matched.targets.match_equal(&fingerprints(&pairs));
    let score = plain.compute_loss(host_features(&images, &texts), 14.3, &SingleRank);
    assert_eq!(
        matched.compute_loss(host_features(&images, &texts), 14.3, &SingleRank),
        score
    );

    assert_eq!(
        read(matched.feature_gradients(0..PAIRS)),
        read(plain.feature_gradients(0..PAIRS))
    );
}

#[test]
fn a_hit_is_anything_that_is_right() {
    let images = features(1);
    let mut texts = images.clone();
    // Each caption is nearest to the picture before its own.
    texts.rotate_left(WIDTH);
    let pairs: Vec<Pair> = (0..PAIRS as u64).map(|i| (i / 2, i)).collect();
    let mut loss = ContrastiveLoss::new(PAIRS, WIDTH);

    loss.targets.match_equal(&fingerprints(&pairs));
    let score = loss.compute_loss(host_features(&images, &texts), 20.0, &SingleRank);
    let half = (PAIRS / 2) as f64 / PAIRS as f64;
    assert_eq!(
        (score.image_to_text_accuracy, score.text_to_image_accuracy),
        (half, half)
    );
}

#[test]
fn the_shares_of_ranks_are_the_gradient_of_one() {
    let pairs = 36;
    let [images, texts] = [1, 2].map(|seed| features(seed)[..pairs * WIDTH].to_vec());
    let found = fingerprints(&duplicated()[..pairs]);
    let loss = |ranks: &dyn Collective| {
        let own = ranks.rank_range(pairs);
        let mut loss = ContrastiveLoss::new_in(&Memory::Host, pairs, own.len(), WIDTH);
        loss.targets.match_equal(&found);
        let score = loss.compute_loss(host_features(&images, &texts), 20.0, ranks);
        let (images, texts) = read(loss.feature_gradients(0..own.len()));

        (score, images, texts)
    };

    let (right, right_images, right_texts) = loss(&SingleRank);
    for count in [2, 3, 4] {
        let mut slope = 0.0;
        for (score, images, texts) in
            run_on_ranks(count, |world| (world.rank_range(pairs), loss(world)))
                .unwrap()
                .into_iter()
                .map(|(own, (score, images, texts))| {
                    let own = own.start * WIDTH..own.end * WIDTH;
                    let error = |found: &[f32], right: &[f32]| {
                        found
                            .iter()
                            .zip(&right[own.clone()])
                            .map(|(a, b)| (a - b).abs())
                            .fold(0.0, f32::max)
                    };

                    (
                        score,
                        error(&images, &right_images),
                        error(&texts, &right_texts),
                    )
                })
        {
            assert!(
                (score.loss - right.loss).abs() < 1e-9,
                "{} for {}",
                score.loss,
                right.loss
            );

            assert_eq!(score.image_to_text_accuracy, right.image_to_text_accuracy);
            assert_eq!(score.text_to_image_accuracy, right.text_to_image_accuracy);
            assert!(images < 1e-7 && texts < 1e-7, "{images}, {texts}");
            slope += score.logit_scale_gradient;
        }

        assert!((slope - right.logit_scale_gradient).abs() < 1e-7);
    }
}

#[test]
fn a_pair_is_a_hit_where_it_is_nearest_and_a_collapsed_model_hits_once() {
    let images = features(1);
    let mut loss = ContrastiveLoss::new(PAIRS, WIDTH);
    let score = loss.compute_loss(host_features(&images, &images), 20.0, &SingleRank);
    assert_eq!(
        (score.image_to_text_accuracy, score.text_to_image_accuracy),
        (1.0, 1.0)
    );
    let mut texts = images.clone();

    texts.rotate_left(WIDTH);
    let score = loss.compute_loss(host_features(&images, &texts), 20.0, &SingleRank);
    assert_eq!(
        (score.image_to_text_accuracy, score.text_to_image_accuracy),
        (0.0, 0.0)
    );
    let one = images[..WIDTH].repeat(PAIRS);
    let score = loss.compute_loss(host_features(&one, &one), 20.0, &SingleRank);

    assert!((score.image_to_text_accuracy - 1.0 / PAIRS as f64).abs() < 1e-12);
    assert!((score.loss - (PAIRS as f64).ln()).abs() < 1e-5);
}
