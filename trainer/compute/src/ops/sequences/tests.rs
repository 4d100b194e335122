//! Packed sequences: their rows in parallel, and the rows of pooled tokens on the device against the CPU.

use cnclip_compute::ops::sequences::{Pooling, Sequences, TokenRows, gather_rows, scatter_rows};
use cnclip_compute::tensor::TensorView;

use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, POOLINGS, SIDES, Side, test_sequences};

#[test]
fn every_sequence_is_given_its_own_rows() {
    let offsets = [0, 3, 4, 9];
    let mut rows = vec![0.0; 18];
    let sequences = Sequences::new(&offsets);
    sequences.par_for_each(TokenRows(&mut rows[..], 2), |i, rows| rows.0.fill(i as f32));
    assert_eq!(rows, [[0.0; 6].as_slice(), &[1.0; 2], &[2.0; 10]].concat());
}

#[test]
fn gathered_rows_are_scattered_back() {
    let offsets = [0, 2, 5, 6];
    let all = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for (pooling, pooled, scattered) in [
        (
            Pooling::FirstToken,
            vec![1.0, 3.0, 6.0],
            vec![1.0, 0.0, 3.0, 0.0, 0.0, 6.0],
        ),
        (Pooling::AllTokens, all.to_vec(), all.to_vec()),
    ] {
        let sequences = Sequences::new(&offsets).with_pooling(pooling);
        let mut found = vec![9.0; pooled.len()];
        let mut back = vec![9.0; 6];
        gather_rows(sequences, 1, TensorView::Host(&all), (&mut found).into());
        scatter_rows(sequences, 1, (&found).into(), (&mut back).into());
        assert_eq!((found, back), (pooled, scattered));
    }
}

#[test]
fn rows_of_pooled_tokens_on_a_device_are_the_cpus() {
    for (dtype, width) in DTYPES.into_iter().zip([24, 17]) {
        for (texts, pooling) in test_sequences()
            .iter()
            .flat_map(|texts| POOLINGS.map(|pooling| (texts, pooling)))
        {
            let rows = texts.on(Side::Host, pooling);
            let all = HostAndDevice::activations(rows.token_count() * width, 1, dtype);
            let mut pooled = HostAndDevice::activations(rows.pooled_count() * width, 2, dtype);
            let mut again = HostAndDevice::activations(rows.token_count() * width, 3, dtype);

            for side in SIDES {
                let sequences = texts.on(side, pooling);
                gather_rows(sequences, width, all.view(side), pooled.view_mut(side));
                scatter_rows(sequences, width, pooled.view(side), again.view_mut(side));
            }

            assert_eq!(pooled.device_values(), pooled.host_values());
            assert_eq!(again.device_values(), again.host_values());
        }
    }
}
