//! The contrastive loss of a device is that of this machine, whichever pairs are right for each other.

use cnclip::array::{Array, Memory, View};
use cnclip::device::Format;
use cnclip::loss::{ContrastiveLoss, Fingerprint, Score};
use cnclip::ops::normalize;
use cnclip::ops::ranks::{Alone, Ranks};

use crate::support::{DEVICE, memory, numbers};

/// The second of two ranks, whose partner says always the same.
#[derive(Debug)]
struct Second;

impl Ranks for Second {
    fn rank(&self) -> usize {
        1
    }
    fn count(&self) -> usize {
        2
    }
    fn sum(&self, _: &mut [f64]) {}
    fn gather(&self, values: &mut [f32]) {
        let half = values.len() / 2;
        values[..half].fill(21.0);
    }
}

/// Unit features, made and kept by this machine.
fn features(pairs: usize, width: usize, seed: u64) -> Vec<f32> {
    let (raw, mut unit) = (numbers(pairs * width, seed, Format::F32), vec![0.0; pairs * width]);
    normalize::forward(width, View::Host(&raw), (&mut unit).into());
    unit
}

/// Pictures with several captions, and captions of several pictures.
fn fingerprints(pairs: usize) -> Vec<Fingerprint> {
    let number = |of: usize| of as u64 * 7919;
    let pair = |i| Fingerprint { image: number(i * 2 / 3), text: number(i % (pairs - pairs / 4)) };
    (0..pairs).map(pair).collect()
}

fn evaluate(
    memory: &Memory,
    (pairs, width): (usize, usize),
    duplicates: bool,
    ranks: &dyn Ranks,
) -> (Score, Vec<f32>, Vec<f32>) {
    let own = ranks.share(pairs).len();
    let mut loss = ContrastiveLoss::within(memory, (pairs + 3, own + 2), width);
    if duplicates {
        loss.targets.match_equal(&fingerprints(pairs));
    }
    let place = |seed| -> Array {
        let mut array = memory.exact(pairs * width);
        array.copy_from(View::Host(&features(pairs, width, seed)));
        array
    };
    let (images, texts) = (place(1), place(2));
    let score = loss.evaluate((images.view(), texts.view()), 20.0, ranks);
    let (images, texts) = loss.gradients(0..own);
    (score, images.read().into_owned(), texts.read().into_owned())
}

#[test]
fn loss_hits_and_gradients_are_those_of_this_machine() {
    for (pairs, width) in [(2, 5), (38, 11), (314, 64)] {
        for duplicates in [false, true] {
            for ranks in [&Alone as &dyn Ranks, &Second] {
                let given = ((pairs, width), duplicates, ranks);
                let found = evaluate(&memory(Format::F32), given.0, given.1, given.2);
                DEVICE.check().unwrap();
                let right = evaluate(&Memory::Host, given.0, given.1, given.2);
                let what = format!("{given:?}");
                assert!((found.0.loss - right.0.loss).abs() < 1e-5, "{what}: {found:?}, {right:?}");
                let slopes = [found.0, right.0].map(|score| score.logit_scale_gradient);
                assert!(
                    (slopes[0] - slopes[1]).abs() < 1e-5 * slopes[1].abs().max(1.0),
                    "{what}: {slopes:?}"
                );
                assert_eq!(found.0.image_to_text, right.0.image_to_text, "{what}");
                assert_eq!(found.0.text_to_image, right.0.text_to_image, "{what}");
                for (found, right) in [(&found.1, &right.1), (&found.2, &right.2)] {
                    let largest = right.iter().fold(0f32, |most, value| most.max(value.abs()));
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * largest;
                    assert!(largest > 0.0 && found.iter().zip(right).all(near), "{what}");
                }
            }
        }
    }
}

#[test]
fn of_equal_logits_the_first_is_the_nearest_on_a_device_too() {
    let (pairs, width) = (300, 8);
    let memory = memory(Format::F32);
    let mut array = memory.exact(pairs * width);
    array.copy_from(View::Host(&features(1, width, 1).repeat(pairs)));
    let mut loss = ContrastiveLoss::within(&memory, (pairs, pairs), width);
    // The first is right for as many as have its picture, the last for itself.
    let pair = |i: usize| Fingerprint { image: i.max(9) as u64, text: i as u64 };
    loss.targets.match_equal(&(0..pairs).map(pair).collect::<Vec<_>>());
    let score = loss.evaluate((array.view(), array.view()), 20.0, &Alone);
    assert!((score.image_to_text - 10.0 / pairs as f64).abs() < 1e-12, "{score:?}");
    assert!((score.loss - (pairs as f64).ln()).abs() < 1e-5, "{score:?}");
}
