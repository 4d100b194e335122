//! Dropout: the statistics of its masks, and the device against the CPU.

use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::sequences::Sequences;
use cnclip_compute::tensor::{TensorView, TensorViewMut};

use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, POOLINGS, SIDES, Side, test_dropouts, test_sequences};

#[test]
fn a_mask_keeps_the_share_and_the_mean_it_promises() {
    for rate in [0.1, 0.5, 0.9] {
        let mask = Dropout::new(1, 2, 3).at_site(4, rate).sample_mask(5);
        let mean = (0..100_000).map(|i| mask.element_scale(i)).sum::<f32>() / 1e5;
        let kept = (0..100_000)
            .filter(|&i| mask.element_scale(i) > 0.0)
            .count() as f32
            / 1e5;
        assert!((mean - 1.0).abs() < 0.02, "rate {rate}: mean {mean}");
        assert!(
            (kept - (1.0 - rate)).abs() < 0.005,
            "rate {rate}: kept {kept}"
        );
    }
}

#[test]
fn every_part_of_the_key_changes_the_mask() {
    let drawn = |seed, step, first, site, sample| -> Vec<bool> {
        let mask = Dropout::new(seed, step, first)
            .at_site(site, 0.5)
            .sample_mask(sample);
        (0..64).map(|i| mask.element_scale(i) > 0.0).collect()
    };

    let one = drawn(1, 2, 3, 4, 5);
    assert_eq!(one, drawn(1, 2, 3, 4, 5));
    assert_eq!(
        one,
        drawn(1, 2, 4, 4, 4),
        "the same sample of the global batch"
    );

    assert_eq!(Dropout::new(1, 2, 3).skip_samples(2), Dropout::new(1, 2, 5));
    for other in [
        (9, 2, 3, 4, 5),
        (1, 9, 3, 4, 5),
        (1, 2, 9, 4, 5),
        (1, 2, 3, 9, 5),
    ] {
        assert_ne!(
            one,
            drawn(other.0, other.1, other.2, other.3, other.4),
            "{other:?}"
        );
    }
}

#[test]
fn evaluation_drops_nothing_at_any_site() {
    assert!(!Dropout::NONE.at_site(3, 0.5).is_active());
    assert!(!Dropout::NONE.skip_samples(7).at_site(3, 0.5).is_active());
    let offsets = [0, 2];
    let mut y = [1.0, 2.0];
    let residual = TensorView::Host(&[3.0, 4.0]);
    let sequences = Sequences::new(&offsets);

    Dropout::NONE
        .at_site(3, 0.5)
        .mask_and_add(sequences, 1, TensorViewMut::Host(&mut y), residual);

    assert_eq!(y, [4.0, 6.0]);
}

#[test]
fn a_mask_is_the_same_on_a_device() {
    for dtype in DTYPES {
        for (texts, pooling) in test_sequences()
            .iter()
            .flat_map(|texts| POOLINGS.map(|pooling| (texts, pooling)))
        {
            for (width, dropout) in
                [(24, 0), (17, 0), (24, 1), (17, 1)].map(|(w, d)| (w, test_dropouts()[d]))
            {
                let kept = texts.on(Side::Host, pooling).pooled_count();
                let x = HostAndDevice::activations(kept * width, 1, dtype);
                let mut sum = HostAndDevice::activations(kept * width, 2, dtype);
                let mut masked = HostAndDevice::activations(kept * width, 3, dtype);

                for side in SIDES {
                    let sequences = texts.on(side, pooling);
                    dropout.mask_and_add(sequences, width, sum.view_mut(side), x.view(side));
                    dropout.apply_mask(sequences, width, x.view(side), masked.view_mut(side));
                }

                sum.assert_agree("dropout and residual", 1.0);
                masked.assert_agree("dropout", 1.0);
                let zeros = |values: Vec<f32>| {
                    values
                        .into_iter()
                        .map(|value| value == 0.0)
                        .collect::<Vec<_>>()
                };

                assert_eq!(zeros(masked.device_values()), zeros(masked.host_values()));
            }
        }
    }
}
