//! Patch dropout: how many patches are visible, and how often each.

use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::PatchDropout;

fn chosen(percent: u32, dropout: Dropout) -> Vec<u32> {
    let mut patches = PatchDropout::new(500, 49);
    patches.set_masked_percent(percent);
    patches.sample_patches(500, dropout).to_vec()
}

#[test]
fn every_patch_is_seen_where_nothing_is_dropped() {
    for (percent, dropout) in [(0, Dropout::new(1, 2, 0)), (50, Dropout::NONE)] {
        let all: Vec<u32> = (0..49).collect();
        assert!(chosen(percent, dropout).chunks(49).all(|seen| seen == all));
    }
}

#[test]
fn as_many_are_seen_as_the_reference_keeps_each_as_often_as_any_other() {
    for (percent, kept) in [(1, 48), (50, 24), (75, 12), (90, 4), (99, 1)] {
        let seen = chosen(percent, Dropout::new(1, 2, 0));
        assert_eq!(seen.len(), 500 * kept);
        assert!(
            seen.chunks(kept)
                .all(|seen| seen.is_sorted_by(|a, b| a < b))
        );

        for patch in 0..49 {
            let times = seen.iter().filter(|&&seen| seen == patch).count() as f64;
            let mean = 500.0 * kept as f64 / 49.0;
            let share = kept as f64 / 49.0;
            let deviation = (mean * (1.0 - share)).sqrt();
            assert!(
                (times - mean).abs() < 5.0 * deviation,
                "{percent}, {patch}: {times}"
            );
        }
    }
}

#[test]
fn a_sample_sees_the_same_in_any_batch_and_other_patches_in_another_step() {
    let whole = chosen(50, Dropout::new(1, 2, 0));
    assert_eq!(
        whole[24 * 3..],
        chosen(50, Dropout::new(1, 2, 3))[..24 * 497]
    );

    assert_ne!(whole, chosen(50, Dropout::new(1, 3, 0)));
}
