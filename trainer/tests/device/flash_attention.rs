//! Attention that never holds its probabilities, against this machine's, which does.

use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::sequences::{DeviceSequenceView, Pooling, Sequences};
use cnclip_compute::tensor::{Memory, TensorView, TensorViewMut};
use cnclip_crds::stage::Precision;

use crate::support::{DEVICE, assert_near, memory, numbers, on_device, wholes};

/// Heads, width of a head, lengths of sequences, share of dropped probabilities.
type Row<'a> = (usize, usize, &'a [usize], f32);

fn offsets(lengths: &[usize]) -> Vec<usize> {
    std::iter::once(0)
        .chain(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }))
        .collect()
}

#[test]
fn attention_by_tiles_is_attention() {
    let rows: [Row<'_>; 4] = [
        (2, 64, &[67, 67], 0.0),
        (3, 64, &[5, 1, 17, 33], 0.0),
        (2, 64, &[31, 70, 2], 0.3),
        (1, 80, &[19, 64], 0.1),
    ];

    for row in rows {
        for (keep, padded) in [
            (Pooling::AllTokens, false),
            (Pooling::FirstToken, false),
            (Pooling::AllTokens, true),
        ] {
            compare(row, keep, padded);
        }
    }
}

fn compare((heads, head, lengths, rate): Row<'_>, keep: Pooling, padded: bool) {
    let what = format!("{heads} heads of {head}, {lengths:?}, {rate}, {keep:?}, padded {padded}");
    let width = heads * head;
    let offsets = offsets(lengths);
    let longest = lengths.iter().copied().max().unwrap();
    let tokens = offsets[lengths.len()];
    let ids: Vec<u32> = (0..tokens as u32).map(|i| u32::from(i % 5 != 3)).collect();
    let sequences = Sequences::new(&offsets).with_pooling(keep);
    let sequences = if padded {
        sequences.with_padding(&ids)
    } else {
        sequences
    };

    let dropout = Dropout::new(1, 2, 3).at_site(4, rate);
    let kept = sequences.pooled_count();
    let format = DType::Bf16;
    let qkv = numbers(tokens * 3 * width, 1, format);
    let dout = numbers(kept * width, 2, format);

    let host = Attention::for_memory(&Memory::Host, (heads, width), longest, Precision::Fp32);
    let scratch = || vec![9.0; kept * host.probabilities_per_token()];
    let mut probabilities = scratch();
    let mut dropped = scratch();
    let mut scores = scratch();
    let mut out = vec![9.0; kept * width];
    let mut dqkv = vec![9.0; tokens * 3 * width];
    let weights = ((&mut probabilities).into(), (&mut dropped).into());

    host.forward(
        sequences,
        dropout,
        (&qkv).into(),
        weights,
        (&mut out).into(),
    );

    let saved = ((&qkv).into(), (&probabilities).into(), (&out).into());
    let lent = ((&mut dropped).into(), (&mut scores).into());
    host.backward(
        sequences,
        dropout,
        saved,
        (&dout).into(),
        lent,
        (&mut dqkv).into(),
    );

    let memory = memory(format);
    let device = Attention::for_memory(&memory, (heads, width), longest, Precision::Bf16);
    assert!(device.flash, "{what}");
    let wanted: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
    let begins = wholes(&wanted);
    let known = wholes(&ids);
    let ids = padded.then(|| known.as_view());
    let sequences = sequences.with_device(DeviceSequenceView {
        offsets: begins.as_view(),
        token_ids: ids,
    });

    let [mut sums, mut spare, mut along] =
        [0; 3].map(|_| device.alloc_probabilities(&memory, kept));
    let given = on_device(&qkv, format);
    let gradient = on_device(&dout, format);
    let mut found = DeviceBuffer::new(&DEVICE, kept * width, format);
    let mut dfound = on_device(&vec![9.0; tokens * 3 * width], format);
    let weights = (sums.view_mut(), spare.view_mut());
    let into = TensorViewMut::Device(found.as_view_mut());

    device.forward(
        sequences,
        dropout,
        TensorView::Device(given.as_view()),
        weights,
        into,
    );

    assert_near(&format!("{what}: out"), &found, &out, format, 3.0);
    let saved = (given.as_view().into(), sums.view(), found.as_view().into());
    let lent = (spare.view_mut(), along.view_mut());
    let into = TensorViewMut::Device(dfound.as_view_mut());
    device.backward(
        sequences,
        dropout,
        saved,
        gradient.as_view().into(),
        lent,
        into,
    );

    assert_near(&format!("{what}: dqkv"), &dfound, &dqkv, format, 4.0);
}
