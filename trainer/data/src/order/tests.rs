use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// An order over shards of these numbers of pairs, ten bytes a pair.
fn order(pairs: &[u64], seed: u64, global_batch: usize, window_bytes: u64) -> BatchSampler {
    let parts = pairs.iter().zip(0..).map(|(pairs, number)| {
        let name = format!("{number:05}.tar");
        let bytes = pairs * 10;
        IndexedFile {
            name,
            bytes,
            images: *pairs,
            pairs: *pairs,
            sha256: String::new(),
        }
    });

    let index = ShardIndex::new(parts.collect(), None);
    BatchSampler {
        window_bytes,
        ..BatchSampler::new(&index, seed, global_batch).unwrap()
    }
}

/// All pairs of an epoch, in their turn.
fn epoch(order: &BatchSampler, epoch: u64) -> Vec<(u32, u32)> {
    let turn = |position| order.sample_at(epoch, position).1;
    (0..order.pairs)
        .map(turn)
        .map(|draw| (draw.shard, draw.pair))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_epoch_is_a_permutation_whatever_the_shards_and_the_window(
        pairs in prop::collection::vec(0u64..40, 1..12),
        seed: u64,
        window_bytes in 1u64..2000,
    ) {
        prop_assume!(pairs.iter().sum::<u64>() > 0);
        let order = order(&pairs, seed, 1, window_bytes);
        for number in [0, 5] {
            let mut turns = epoch(&order, number);
            turns.sort_unstable();
            let all = (0u32..).zip(&pairs).flat_map(|(shard, pairs)| {
                (0..*pairs as u32).map(move |pair| (shard, pair))
            });

            prop_assert_eq!(turns, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_batch_depends_on_seed_and_step_and_not_on_what_was_asked_before(
        seed: u64,
        steps in prop::collection::vec(0u64..200, 1..20),
    ) {
        let pairs = [30, 5, 17, 60, 1];
        let asked_before = order(&pairs, seed, 7, 300);
        for step in steps {
            prop_assert_eq!(asked_before.draw_batch(step), order(&pairs, seed, 7, 300).draw_batch(step));
        }
    }
}

#[test]
fn an_epoch_has_every_pair_at_most_once_and_leaves_out_less_than_a_batch() {
    let order = order(&[30, 5, 17, 60, 1], 1, 10, 300);
    assert_eq!(order.steps_per_epoch(), 11);
    let seen: HashSet<_> = (0..11).flat_map(|step| order.draw_batch(step)).collect();
    assert_eq!(seen.len(), 110);
    let next: HashSet<_> = (11..22).flat_map(|step| order.draw_batch(step)).collect();

    assert_eq!(next.len(), 110);
    let pairs = |set: &HashSet<SampleRef>| {
        set.iter()
            .map(|d| (d.shard, d.pair))
            .collect::<HashSet<_>>()
    };

    assert_ne!(
        pairs(&seen),
        pairs(&next),
        "the pairs left out differ between epochs"
    );
}

#[test]
fn seeds_epochs_and_data_sets_have_their_own_orders() {
    let base = epoch(&order(&[50], 1, 10, 9999), 0);
    assert_eq!(base, epoch(&order(&[50], 1, 10, 9999), 0));
    assert_ne!(base, epoch(&order(&[50], 2, 10, 9999), 0));
    assert_ne!(base, epoch(&order(&[50], 1, 10, 9999), 1));
    let other = BatchSampler {
        dataset: "another".into(),
        ..order(&[50], 1, 10, 9999)
    };

    assert_ne!(base, epoch(&other, 0));
}

#[test]
fn a_large_data_set_is_read_a_window_at_a_time_and_a_batch_in_runs_of_shards() {
    let order = order(&[20; 30], 3, 25, 1000); // windows of five shards, 100 pairs
    let turns = epoch(&order, 0);
    for window in turns.chunks(100) {
        let shards: HashSet<_> = window.iter().map(|(shard, _)| *shard).collect();
        assert_eq!(shards.len(), 5);
    }

    let batch = order.draw_batch(2);
    let runs = batch.chunk_by(|a, b| a.shard == b.shard).count();
    let shards: HashSet<_> = batch.iter().map(|draw| draw.shard).collect();
    assert_eq!(runs, shards.len());
}

#[test]
fn a_replacement_is_no_pair_of_the_same_batch() {
    let order = order(&[100], 1, 10, 9999);
    for step in 0..9 {
        let batch = order.draw_batch(step);
        for draw in &batch {
            let replacement = order.replacement_for(draw, 0);
            assert!(!batch.contains(&replacement));
            assert!(order.draw_batch(step + 1).contains(&replacement));
        }
    }
}

#[test]
fn replacements_reach_every_other_pair_of_a_data_set_that_is_hardly_larger_than_a_batch() {
    for (pairs, global_batch) in [(10, 10), (11, 10), (15, 10), (20, 10), (25, 10), (10, 1)] {
        let order = order(&[pairs], 1, global_batch, 9999);
        let batch = order.draw_batch(0);

        for draw in &batch {
            let found: HashSet<_> = (0..pairs)
                .map(|attempt| order.replacement_for(draw, attempt).pair)
                .collect();

            let others: HashSet<_> = (0..pairs as u32)
                .filter(|pair| {
                    pairs == global_batch as u64 || batch.iter().all(|d| d.pair != *pair)
                })
                .collect();

            let reached = found.intersection(&others).count();
            assert_eq!(found.len(), reached, "{pairs}: a pair of the same batch");
            assert!(
                reached * global_batch >= others.len().min(global_batch),
                "{pairs}"
            );
        }
    }
}

#[test]
fn a_shuffle_is_uniform() {
    // Chi-squared over the 24 orders of four pairs, 24 000 epochs; 23 degrees of freedom.
    let order = order(&[4], 1, 1, 9999);
    let mut counts = std::collections::HashMap::new();
    (0..24_000).for_each(|number| *counts.entry(epoch(&order, number)).or_insert(0.0) += 1.0);
    assert_eq!(counts.len(), 24);
    let chi: f64 = counts
        .values()
        .map(|count: &f64| (count - 1000.0).powi(2) / 1000.0)
        .sum();

    assert!(chi < 50.0, "{chi}");
}

#[test]
fn the_first_draws_never_change() {
    let batch: Vec<_> = order(&[8], 7, 4, 9999)
        .draw_batch(0)
        .iter()
        .map(|draw| draw.pair)
        .collect();

    assert_eq!(batch, [7, 3, 4, 1]);
}

#[test]
fn a_batch_larger_than_the_data_set_is_refused() {
    let index = ShardIndex::new(
        vec![IndexedFile {
            name: "0.tar".into(),
            bytes: 1,
            images: 3,
            pairs: 3,
            sha256: String::new(),
        }],
        None,
    );

    let error = BatchSampler::new(&index, 0, 4).unwrap_err();
    assert!(error.to_string().contains("between 1 and 3"), "{error}");
    assert_eq!(error.exit().exit_code(), 78);
}
