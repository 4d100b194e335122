//! The contrastive loss of a device is that of this machine, whichever pairs are right for each other.

use std::sync::{Barrier, Mutex};
use std::thread;

use cnclip_compute::collective::{Collective, SingleRank};
use cnclip_compute::device::DType;
use cnclip_compute::digest::Fingerprint;
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_nn::loss::{ContrastiveLoss, LossOutput};
use cnclip_nn::model::ImageTextFeatures;

use crate::support::{DEVICE, memory, numbers};

/// One of two ranks, which tell each other what they have.
#[derive(Debug)]
struct One<'a> {
    rank: usize,
    table: &'a Table,
}

/// Where both ranks lay what they tell.
#[derive(Debug)]
struct Table {
    told: Mutex<[Vec<f64>; 2]>,
    both: Barrier,
}

impl One<'_> {
    fn exchange(&self, own: Vec<f64>) -> [Vec<f64>; 2] {
        self.table.told.lock().unwrap()[self.rank] = own;
        self.table.both.wait();
        let told = self.table.told.lock().unwrap().clone();
        self.table.both.wait();

        told
    }
}

impl Collective for One<'_> {
    fn rank(&self) -> usize {
        self.rank
    }
    fn world_size(&self) -> usize {
        2
    }
    fn all_reduce_sum_f64(&self, values: &mut [f64]) {
        let [first, second] = self.exchange(values.to_vec());
        values
            .iter_mut()
            .zip(first.iter().zip(&second))
            .for_each(|(sum, (a, b))| *sum = a + b);
    }
    fn all_gather_f32(&self, values: &mut [f32]) {
        let own = &values[self.rank_range(values.len())];
        let all = self
            .exchange(own.iter().map(|&value| value.into()).collect())
            .concat();

        values
            .iter_mut()
            .zip(all)
            .for_each(|(value, told)| *value = told as f32);
    }
}

/// Unit features, made and kept by this machine.
fn features(pairs: usize, width: usize, seed: u64) -> Vec<f32> {
    let raw = numbers(pairs * width, seed, DType::F32);
    let mut unit = vec![0.0; pairs * width];
    l2_normalize::forward(width, TensorView::Host(&raw), (&mut unit).into());
    unit
}

/// Pictures with several captions, and captions of several pictures.
fn fingerprints(pairs: usize) -> Vec<Fingerprint> {
    let number = |of: usize| of as u64 * 7919;
    let pair = |i| Fingerprint {
        image: number(i * 2 / 3),
        text: number(i % (pairs - pairs / 4)),
    };

    (0..pairs).map(pair).collect()
}

/// The score, and the gradients of this rank's pictures and captions.
type Found = (LossOutput, [Vec<f32>; 2]);

fn evaluate(
    memory: &Memory,
    (pairs, width): (usize, usize),
    duplicates: bool,
    ranks: &dyn Collective,
) -> Found {
    let own = ranks.rank_range(pairs).len();
    let mut loss = ContrastiveLoss::new_in(memory, pairs + 3, own + 2, width);
    if duplicates {
        loss.match_equal(&fingerprints(pairs));
    }

    let place = |seed| -> Tensor {
        let mut array = memory.alloc_f32(pairs * width);
        array.copy_from(TensorView::Host(&features(pairs, width, seed)));
        array
    };

    let images = place(1);
    let texts = place(2);
    let features = ImageTextFeatures {
        images: images.view(),
        texts: texts.view(),
    };

    let score = loss.compute_loss(features, 20.0, ranks);
    let gradients = loss.feature_gradients(0..own);

    (
        score,
        [gradients.images, gradients.texts].map(|gradient| gradient.to_host().into_owned()),
    )
}

/// The same of two ranks on one device: their gradients one behind the other, their slopes added up.
fn shared((pairs, width): (usize, usize), duplicates: bool) -> Found {
    let table = Table {
        told: Mutex::default(),
        both: Barrier::new(2),
    };

    let rank = |rank| {
        let ranks = One {
            rank,
            table: &table,
        };

        evaluate(&memory(DType::F32), (pairs, width), duplicates, &ranks)
    };

    let [(first, mut left), (second, right)] = thread::scope(|scope| {
        let ranks = [0, 1].map(|number| scope.spawn(move || rank(number)));
        ranks.map(|rank| rank.join().unwrap())
    });

    let told = |score: LossOutput| {
        (
            score.loss,
            score.image_to_text_accuracy,
            score.text_to_image_accuracy,
        )
    };
    assert_eq!(told(first), told(second));
    left.iter_mut()
        .zip(&right)
        .for_each(|(all, part)| all.extend(part));

    let slope = first.logit_scale_gradient + second.logit_scale_gradient;
    (
        LossOutput {
            logit_scale_gradient: slope,
            ..first
        },
        left,
    )
}

fn assert_near(what: &str, (found, gradients): Found, (right, right_gradients): &Found) {
    assert!(
        (found.loss - right.loss).abs() < 1e-5,
        "{what}: {found:?} for {right:?}"
    );

    assert_eq!(
        found.image_to_text_accuracy, right.image_to_text_accuracy,
        "{what}"
    );
    assert_eq!(
        found.text_to_image_accuracy, right.text_to_image_accuracy,
        "{what}"
    );
    let slopes = [found, *right].map(|score| score.logit_scale_gradient);
    let bound = 1e-5 * slopes[1].abs().max(1.0);
    assert!((slopes[0] - slopes[1]).abs() < bound, "{what}: {slopes:?}");

    for (found, right) in gradients.iter().zip(right_gradients) {
        let largest = right.iter().fold(0f32, |most, value| most.max(value.abs()));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * largest;
        assert_eq!(found.len(), right.len(), "{what}");
        assert!(largest > 0.0 && found.iter().zip(right).all(near), "{what}");
    }
}

#[test]
fn loss_hits_and_gradients_are_those_of_this_machine() {
    for (pairs, width) in [(2, 5), (3, 7), (37, 11), (38, 11), (313, 67), (314, 64)] {
        for duplicates in [false, true] {
            let what = format!("{pairs} pairs of {width}, duplicates {duplicates}");
            let right = evaluate(&Memory::Host, (pairs, width), duplicates, &SingleRank);
            let found = evaluate(&memory(DType::F32), (pairs, width), duplicates, &SingleRank);
            DEVICE.synchronize().unwrap();
            assert_near(&what, found, &right);

            if pairs % 2 == 0 {
                let found = shared((pairs, width), duplicates);
                DEVICE.synchronize().unwrap();
                assert_near(&format!("{what}, shared"), found, &right);
            }
        }
    }
}

#[test]
fn of_equal_logits_the_first_is_the_nearest_on_a_device_too() {
    let pairs = 300;
    let width = 8;
    let memory = memory(DType::F32);
    let mut array = memory.alloc_f32(pairs * width);
    array.copy_from(TensorView::Host(&features(1, width, 1).repeat(pairs)));
    let mut loss = ContrastiveLoss::new_in(&memory, pairs, pairs, width);

    // What is first is right for three pairs, and nothing else for more than one.
    let pair = |i: u64| Fingerprint {
        image: if i < 3 { 0 } else { i },
        text: i,
    };

    loss.match_equal(&(0..pairs as u64).map(pair).collect::<Vec<_>>());
    let features = ImageTextFeatures {
        images: array.view(),
        texts: array.view(),
    };

    let score = loss.compute_loss(features, 20.0, &SingleRank);
    assert!(
        (score.image_to_text_accuracy - 3.0 / pairs as f64).abs() < 1e-12,
        "{score:?}"
    );

    assert!(
        (score.text_to_image_accuracy - 3.0 / pairs as f64).abs() < 1e-12,
        "{score:?}"
    );

    assert!((score.loss - (pairs as f64).ln()).abs() < 1e-5, "{score:?}");
}
