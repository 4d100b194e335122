//! AdamW: sums of squares, and the device against the CPU.

use cnclip_compute::device::DType;
use cnclip_compute::ops::adamw::{
    AdamWArrays, AdamWConstants, AdamWRanges, UpdateRange, add_scalar, clamp_values,
};
use cnclip_compute::tensor::{Memory, TensorView};

use crate::device_under_test::{DTYPES, device_memory};
use crate::host_and_device::{HostAndDevice, SIDES, Side};

const CONSTANTS: AdamWConstants = AdamWConstants {
    beta_1: 0.9,
    beta_2: 0.98,
    epsilon: 1e-6,
    clip: 0.5,
    rate: 0.1,
    correction: 7.0,
    keep: 1.0,
    keep_decayed: 0.99,
};

/// Ranges of several chunks, of a part of one and of a single number, with gaps between them.
fn test_ranges(memory: &Memory) -> AdamWRanges {
    let range = |range, decays| UpdateRange { range, decays };
    let ranges = vec![
        range(0..40_009, true),
        range(50_000..50_001, false),
        range(50_001..50_300, true),
    ];

    AdamWRanges::new(memory, ranges)
}

#[test]
fn a_sum_of_squares_counts_every_value_once() {
    for len in [1, 1023, 1024, 33_000, 100_001] {
        let range = UpdateRange {
            range: 0..len,
            decays: false,
        };

        let mut ranges = AdamWRanges::new(&Memory::Host, vec![range]);
        let values = vec![2.0; len];
        let sums = ranges.sums_of_squares(TensorView::Host(&values));
        assert_eq!(sums, [4.0 * len as f64]);
    }
}

#[test]
fn a_step_on_a_device_is_the_cpus() {
    for dtype in DTYPES {
        let len = 50_400;
        let mut values = HostAndDevice::weights(len, 1, dtype);
        let mut exp_avg = HostAndDevice::f32s(len, 2, DType::F32);
        let mut exp_avg_sq = HostAndDevice::f32s(len, 3, DType::F32);
        let gradients = HostAndDevice::f32s(len, 4, DType::F32);
        let mut sums = Vec::new();

        for side in SIDES {
            let memory = match side {
                Side::Host => Memory::Host,
                Side::Device => device_memory(dtype),
            };

            // Second moments are never negative.
            exp_avg_sq
                .view_mut(side)
                .update_on_host(|values| values.iter_mut().for_each(|value| *value = value.abs()));

            let mut ranges = test_ranges(&memory);
            sums.push(ranges.sums_of_squares(gradients.view(side)));
            let arrays = AdamWArrays {
                values: values.view_mut(side),
                exp_avg: exp_avg.view_mut(side),
                exp_avg_sq: exp_avg_sq.view_mut(side),
                gradients: gradients.view(side),
            };

            ranges.step(arrays, CONSTANTS);
        }

        exp_avg.assert_agree("mean gradients", 0.0);
        exp_avg_sq.assert_agree("mean squared gradients", 0.0);
        values.assert_agree("weights", 0.1);
        for (host, device) in sums[0].iter().zip(&sums[1]) {
            assert!((device / host - 1.0).abs() < 1e-6, "{sums:?}");
        }
    }
}

#[test]
fn sums_with_a_scalar_and_clamped_values_on_a_device_are_the_cpus() {
    let mut values = HostAndDevice::weights(1000, 1, DType::F32);
    for side in SIDES {
        add_scalar(values.view_mut(side), 0.25);
        clamp_values(values.view_mut(side), -0.5, 0.75);
    }

    values.assert_agree("clamped", 0.0);
    let clamped = values.host_values();
    assert!(clamped.contains(&-0.5) && clamped.contains(&0.75));
}
