//! Two ranks with half a batch each, in two threads, against one rank with the whole batch.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;

use std::ops::Range;
use std::slice::from_ref;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use cnclip::loss::ContrastiveLoss;
use cnclip::model::clip::Clip;
use cnclip::ops::dropout::Dropout;
use cnclip::ops::ranks::Ranks;
use cnclip::params::Params;
use golden::{Golden, Pairs, assert_close, without_gradient};

const PAIRS: usize = 6;

/// Threads that meet to add.
#[derive(Debug)]
struct Threads {
    meeting: Barrier,
    sums: Mutex<Vec<f64>>,
}

impl Threads {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { meeting: Barrier::new(count), sums: Mutex::default() })
    }
}

impl Ranks for Threads {
    fn sum(&self, values: &mut [f64]) {
        {
            let mut sums = self.sums.lock().unwrap();
            sums.resize(values.len(), 0.0);
            sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
        }
        self.meeting.wait();
        values.copy_from_slice(&self.sums.lock().unwrap());
        if self.meeting.wait().is_leader() {
            self.sums.lock().unwrap().clear();
        }
        self.meeting.wait();
    }
}

/// Part of a golden batch.
fn part(pairs: &Pairs, part: &Range<usize>) -> Pairs {
    let picture = pairs.pixels.len() / PAIRS;
    let (first, last) = (pairs.offsets[part.start], pairs.offsets[part.end]);
    Pairs {
        pixels: pairs.pixels[part.start * picture..part.end * picture].to_vec(),
        ids: pairs.ids[first..last].to_vec(),
        offsets: pairs.offsets[part.start..=part.end].iter().map(|at| at - first).collect(),
    }
}

/// One rank's features, in the places of the global batch that are its own.
fn features(
    (clip, params): (&mut Clip, &mut Params),
    own: &Pairs,
    at: &Range<usize>,
) -> [Vec<f64>; 2] {
    let width = clip.features();
    let (images, texts) = clip.forward(params, own.batch(), Dropout::NONE);
    [images, texts].map(|features| {
        let mut all = vec![0.0; PAIRS * width];
        let places = all[at.start * width..at.end * width].iter_mut().zip(features);
        places.for_each(|(place, value)| *place = f64::from(*value));
        all
    })
}

/// What one rank has after a step: gradients of its share, and running statistics.
fn step(ranks: &Arc<Threads>, synchronized: bool, at: Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let golden = Golden::read("rn50");
    let (mut clip, mut params) = golden.model();
    if synchronized {
        clip.synchronize_batch_norm(ranks.clone());
    }
    let own = part(&golden.pairs(0), &at);
    let gathered = features((&mut clip, &mut params), &own, &at).map(|mut features| {
        ranks.sum(&mut features);
        features.iter().map(|&value| value as f32).collect::<Vec<_>>()
    });
    let (mut loss, scale) =
        (ContrastiveLoss::new(PAIRS, clip.features()), clip.logit_scale(&params));
    let score = loss.evaluate((&gathered[0], &gathered[1]), scale, at.clone());
    params.clear_gradients();
    clip.add_logit_scale_gradient(&mut params, score.logit_scale_gradient as f32);
    clip.backward(&mut params, own.batch(), Dropout::NONE, loss.gradients(at));
    (params.gradients, params.state)
}

/// The gradients of so many ranks added up, and the running statistics of the first.
fn train(shares: &[Range<usize>], synchronized: bool) -> (Vec<f32>, Vec<f32>) {
    let ranks = Threads::new(shares.len());
    let done: Vec<_> = thread::scope(|scope| {
        let start = |at: &Range<usize>| {
            let (ranks, at) = (ranks.clone(), at.clone());
            scope.spawn(move || step(&ranks, synchronized, at))
        };
        let threads: Vec<_> = shares.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut sums = vec![0.0; done[0].0.len()];
    for (gradients, _) in &done {
        sums.iter_mut().zip(gradients).for_each(|(sum, gradient)| *sum += gradient);
    }
    (sums, done[0].1.clone())
}

#[test]
fn ranks_that_share_their_statistics_train_as_one_rank_with_the_whole_batch() {
    let (gradients, state) = train(from_ref(&(0..PAIRS)), false);
    let (found, found_state) = train(&[0..2, 2..PAIRS], true);
    assert_close("running statistics", &found_state, &state, 1e-6);
    let (_, params) = Golden::read("rn50").model();
    for segment in params.segments().iter().filter(|segment| !without_gradient(&segment.name)) {
        let range = segment.range.clone();
        assert_close(&segment.name, &found[range.clone()], &gradients[range], 1e-4);
    }
}

#[test]
fn ranks_that_do_not_share_them_follow_their_own_batches() {
    let (_, whole) = train(from_ref(&(0..PAIRS)), false);
    let (_, own) = train(&[0..2, 2..PAIRS], false);
    assert_ne!(own, whole);
}
