use cnclip_compute::collective::SingleRank;
use cnclip_compute::digest::Fingerprint;
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::random::{derive_key, normal_f32};
use cnclip_distributed::run_on_ranks;

use super::*;

const SAMPLES: usize = 37;
const WIDTH: usize = 11;

fn features(seed: u64) -> Vec<f32> {
    let raw: Vec<f32> = (0..SAMPLES * WIDTH)
        .map(|i| normal_f32(derive_key(seed, i as u64)))
        .collect();

    let mut unit = raw.clone();
    l2_normalize::forward(WIDTH, (&raw).into(), (&mut unit).into());
    unit
}

/// Samples of which none matches another.
fn distinct_samples() -> Vec<Fingerprint> {
    (0..SAMPLES as u64)
        .map(|i| Fingerprint { image: i, text: i })
        .collect()
}

/// Images with several texts, texts of several images, and a chain of both.
fn duplicated_samples() -> Vec<Fingerprint> {
    let mut samples = distinct_samples();
    for (duplicate, original) in [(5, 3), (9, 3), (36, 0)] {
        samples[duplicate].image = samples[original].image;
    }

    for (duplicate, original) in [(11, 9), (20, 9), (5, 3)] {
        samples[duplicate].text = samples[original].text;
    }

    samples
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

/// The cross-entropy of the rows of one side, in double precision.
fn mean_cross_entropy(rows: &[f32], columns: &[f32], scale: f64, samples: &[Fingerprint]) -> f64 {
    let logit = |i: usize, j: usize| -> f64 {
        let row = &rows[i * WIDTH..][..WIDTH];
        let column = &columns[j * WIDTH..][..WIDTH];
        let products = row
            .iter()
            .zip(column)
            .map(|(a, b)| f64::from(*a) * f64::from(*b));

        scale * products.sum::<f64>()
    };

    let matches = |i: usize, j: usize| {
        samples[i].image == samples[j].image || samples[i].text == samples[j].text
    };

    let row_loss = |i: usize| {
        let matching: Vec<usize> = (0..SAMPLES).filter(|&j| matches(i, j)).collect();
        let sum: f64 = matching.iter().map(|&j| logit(i, j)).sum();
        let exponentials = (0..SAMPLES).map(|j| logit(i, j).exp());
        exponentials.sum::<f64>().ln() - sum / matching.len() as f64
    };

    (0..SAMPLES).map(row_loss).sum::<f64>() / SAMPLES as f64
}

fn reference_loss(images: &[f32], texts: &[f32], scale: f64, samples: &[Fingerprint]) -> f64 {
    let image_loss = mean_cross_entropy(images, texts, scale, samples);
    let text_loss = mean_cross_entropy(texts, images, scale, samples);
    (image_loss + text_loss) / 2.0
}

#[test]
fn the_loss_and_its_gradients_agree_with_the_formula_in_double_precision() {
    let images = features(1);
    let texts = features(2);
    let scale = 14.3;

    for samples in [distinct_samples(), duplicated_samples()] {
        let mut loss = ContrastiveLoss::new(SAMPLES, WIDTH);
        loss.match_equal(&samples);
        let reference =
            |images: &[f32], texts: &[f32], scale| reference_loss(images, texts, scale, &samples);

        let output = loss.compute_loss(host_features(&images, &texts), scale, &SingleRank);
        let right = reference(&images, &texts, scale.into());
        assert!(
            (output.loss - right).abs() < 1e-6,
            "{} for {right}",
            output.loss
        );

        // Central differences: of the scale's logarithm, and then of single features.
        let step = 1e-4f64;
        let above = reference(&images, &texts, f64::from(scale) * step.exp());
        let below = reference(&images, &texts, f64::from(scale) * (-step).exp());
        let right = (above - below) / (2.0 * step);
        assert!(
            (output.logit_scale_gradient - right).abs() < 1e-5,
            "{right}"
        );

        let (dimages, dtexts) = read(loss.feature_gradients(0..SAMPLES));
        for index in [
            0,
            17,
            5 * WIDTH,
            9 * WIDTH + 4,
            20 * WIDTH + 1,
            SAMPLES * WIDTH - 1,
        ] {
            let shifted = |features: &[f32], by: f32| {
                let mut features = features.to_vec();
                features[index] += by;
                features
            };

            let step = 1e-2f32;
            let derivative =
                |f: &dyn Fn(f32) -> f64| (f(step) - f(-step)) / (2.0 * f64::from(step));
            let right = derivative(&|by| reference(&shifted(&images, by), &texts, scale.into()));
            assert!(
                (f64::from(dimages[index]) - right).abs() < 1e-4,
                "{} for {right}",
                dimages[index]
            );

            let right = derivative(&|by| reference(&images, &shifted(&texts, by), scale.into()));
            assert!(
                (f64::from(dtexts[index]) - right).abs() < 1e-4,
                "{} for {right}",
                dtexts[index]
            );
        }
    }
}

#[test]
fn a_batch_without_duplicates_has_the_same_loss_to_the_last_bit() {
    let images = features(1);
    let texts = features(2);
    let mut plain = ContrastiveLoss::new(SAMPLES, WIDTH);
    let mut matched = ContrastiveLoss::new(SAMPLES, WIDTH);
    // The matches of an earlier batch leave no trace.
    matched.match_equal(&duplicated_samples());
    let samples: Vec<Fingerprint> = (0..SAMPLES as u64)
        .map(|i| Fingerprint {
            image: i * 7 % 37,
            text: i * 5 % 37,
        })
        .collect();

    matched.match_equal(&samples);
    let output = plain.compute_loss(host_features(&images, &texts), 14.3, &SingleRank);
    assert_eq!(
        matched.compute_loss(host_features(&images, &texts), 14.3, &SingleRank),
        output
    );

    assert_eq!(
        read(matched.feature_gradients(0..SAMPLES)),
        read(plain.feature_gradients(0..SAMPLES))
    );
}

#[test]
fn every_match_counts_as_a_hit() {
    let images = features(1);
    let mut texts = images.clone();
    // Each text is nearest to the image before its own.
    texts.rotate_left(WIDTH);
    let samples: Vec<Fingerprint> = (0..SAMPLES as u64)
        .map(|i| Fingerprint {
            image: i / 2,
            text: i,
        })
        .collect();

    let mut loss = ContrastiveLoss::new(SAMPLES, WIDTH);

    loss.match_equal(&samples);
    let output = loss.compute_loss(host_features(&images, &texts), 20.0, &SingleRank);
    let half = (SAMPLES / 2) as f64 / SAMPLES as f64;
    assert_eq!(accuracies(&output), [half, half]);
}

/// What a rank computes of its share.
struct RankResult {
    output: LossOutput,
    images: Vec<f32>,
    texts: Vec<f32>,
}

#[test]
fn the_shares_of_ranks_are_the_gradient_of_one() {
    let global_batch = 36;
    let [images, texts] = [1, 2].map(|seed| features(seed)[..global_batch * WIDTH].to_vec());
    let samples = duplicated_samples();
    let compute_share = |ranks: &dyn Collective| {
        let local_batch = ranks.rank_range(global_batch).len();
        let mut loss = ContrastiveLoss::new_in(&Memory::Host, global_batch, local_batch, WIDTH);
        loss.match_equal(&samples[..global_batch]);
        let output = loss.compute_loss(host_features(&images, &texts), 20.0, ranks);
        let (images, texts) = read(loss.feature_gradients(0..local_batch));

        RankResult {
            output,
            images,
            texts,
        }
    };

    let right = compute_share(&SingleRank);
    for count in [2, 3, 4] {
        let results = run_on_ranks(count, |communicator| compute_share(communicator)).unwrap();
        let local_len = global_batch / count * WIDTH;
        let mut scale_gradient = 0.0;
        for (rank, result) in results.iter().enumerate() {
            let local = rank * local_len..(rank + 1) * local_len;
            assert!(
                (result.output.loss - right.output.loss).abs() < 1e-9,
                "{} for {}",
                result.output.loss,
                right.output.loss
            );

            assert_eq!(accuracies(&result.output), accuracies(&right.output));
            let image_error = largest_difference(&result.images, &right.images[local.clone()]);
            let text_error = largest_difference(&result.texts, &right.texts[local]);
            assert!(
                image_error < 1e-7 && text_error < 1e-7,
                "{image_error}, {text_error}"
            );

            scale_gradient += result.output.logit_scale_gradient;
        }

        assert!((scale_gradient - right.output.logit_scale_gradient).abs() < 1e-7);
    }
}

fn accuracies(output: &LossOutput) -> [f64; 2] {
    [output.image_to_text_accuracy, output.text_to_image_accuracy]
}

fn largest_difference(found: &[f32], right: &[f32]) -> f32 {
    assert_eq!(found.len(), right.len());
    found
        .iter()
        .zip(right)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn a_match_is_a_hit_where_it_is_nearest_and_a_collapsed_model_hits_once() {
    let images = features(1);
    let mut loss = ContrastiveLoss::new(SAMPLES, WIDTH);
    let output = loss.compute_loss(host_features(&images, &images), 20.0, &SingleRank);
    assert_eq!(accuracies(&output), [1.0, 1.0]);
    let mut texts = images.clone();

    texts.rotate_left(WIDTH);
    let output = loss.compute_loss(host_features(&images, &texts), 20.0, &SingleRank);
    assert_eq!(accuracies(&output), [0.0, 0.0]);
    let one = images[..WIDTH].repeat(SAMPLES);
    let output = loss.compute_loss(host_features(&one, &one), 20.0, &SingleRank);

    assert!((output.image_to_text_accuracy - 1.0 / SAMPLES as f64).abs() < 1e-12);
    assert!((output.loss - (SAMPLES as f64).ln()).abs() < 1e-5);
}
