//! Attention: its gradients against autograd, and both implementations of the device against the CPU.

use candle_core::{Result, Tensor as CandleTensor, Var};
use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::ops::attention::{Attention, AttentionCache, AttentionScratch};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::sequences::{DeviceSequenceView, Pooling, Sequences};
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_crds::stage::Precision;

use crate::autograd::{assert_close, autograd, normal_values, var};
use crate::device_under_test::{
    DEVICE, DTYPES, assert_relative, device_memory, uniform_values, upload_indices,
};
use crate::host_and_device::{HostAndDevice, POOLINGS, SIDES, Side, test_dropouts, test_sequences};

/// Attention of packed sequences, one after the other, in plain operations.
fn plain_attention(
    qkv: &Var,
    offsets: &[usize],
    pooling: Pooling,
    sizes: Attention,
) -> Result<CandleTensor> {
    let width = sizes.width;
    let d = sizes.width / sizes.heads;
    let mut rows = Vec::new();

    for pair in offsets.windows(2) {
        let kept = if pooling == Pooling::AllTokens {
            pair[1] - pair[0]
        } else {
            1
        };

        let sequence = qkv.narrow(0, pair[0], pair[1] - pair[0])?;
        let mut heads = Vec::new();
        for head in 0..sizes.heads {
            let part = |which: usize| {
                sequence
                    .narrow(1, which * width + head * d, d)?
                    .contiguous()
            };

            let scores =
                (part(0)?.narrow(0, 0, kept)?.matmul(&part(1)?.t()?)? / (d as f64).sqrt())?;
            let scores = scores.exp()?;
            let weights = scores.broadcast_div(&scores.sum_keepdim(1)?)?;
            heads.push(weights.matmul(&part(2)?)?);
        }

        rows.push(CandleTensor::cat(&heads, 1)?);
    }

    CandleTensor::cat(&rows, 0)
}

#[test]
fn attention_over_packed_sequences_is_candles_over_each() {
    let offsets = [0, 3, 4, 17, 22];
    let attention = Attention::for_memory(&Memory::Host, 5, 35, 19, Precision::Fp32);
    for pooling in [Pooling::AllTokens, Pooling::FirstToken] {
        let sequences = Sequences::new(&offsets).with_pooling(pooling);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let qkv = normal_values(tokens * 105, 1);
        let dout = normal_values(kept * 35, 2);
        let scratch = || vec![9.0; kept * attention.probabilities_per_token()];
        let mut probabilities = scratch();
        let mut dropped = scratch();

        let mut dscores = scratch();
        let mut out = vec![9.0; kept * 35];
        let mut dqkv = vec![9.0; tokens * 105];
        let none = Dropout::NONE;
        attention.forward(
            sequences,
            none,
            (&qkv).into(),
            (&mut probabilities).into(),
            (&mut dropped).into(),
            (&mut out).into(),
        );

        let cache = AttentionCache {
            qkv: (&qkv).into(),
            probabilities: (&probabilities).into(),
            out: (&out).into(),
        };

        let scratch = AttentionScratch {
            dropped: (&mut dropped).into(),
            dscores: (&mut dscores).into(),
        };

        attention.backward(
            sequences,
            none,
            cache,
            (&dout).into(),
            scratch,
            (&mut dqkv).into(),
        );

        let qkv = var(&qkv, &[tokens, 105]);
        let (right, d) = autograd(&[&qkv], &dout, || {
            plain_attention(&qkv, &offsets, pooling, attention)
        });

        assert_close("out", &out, &right);
        assert_close("dqkv", &dqkv, &d[0]);
    }
}

#[test]
fn attention_on_a_device_is_the_cpus() {
    for (dtype, precision) in DTYPES.into_iter().zip([Precision::Fp32, Precision::Bf16]) {
        for (texts, (heads, head)) in
            test_sequences()
                .iter()
                .zip([(3, 8), (2, 40), (3, 8), (3, 16), (5, 64), (2, 5)])
        {
            for (pooling, dropout) in POOLINGS
                .into_iter()
                .flat_map(|pooling| test_dropouts().map(|d| (pooling, d)))
            {
                let width = heads * head;
                let longest = 73;
                let attention = Attention {
                    heads,
                    width,
                    max_tokens: longest,
                    precision,
                    flash: false,
                };

                let rows = texts.on(Side::Host, pooling);
                let tokens = rows.token_count();
                let kept = rows.pooled_count();
                let row = attention.probabilities_per_token();
                let qkv = HostAndDevice::activations(tokens * 3 * width, 1, dtype);
                let mut out = HostAndDevice::activations(kept * width, 2, dtype);
                let mut probabilities = HostAndDevice::activations(kept * row, 3, dtype);
                let mut dropped = HostAndDevice::activations(kept * row, 4, dtype);

                let mut dscores = HostAndDevice::activations(kept * row, 5, dtype);
                let dout = HostAndDevice::activations(kept * width, 6, dtype);
                let mut dqkv = HostAndDevice::activations(tokens * 3 * width, 7, dtype);

                for side in SIDES {
                    let sequences = texts.on(side, pooling);
                    attention.forward(
                        sequences,
                        dropout,
                        qkv.view(side),
                        probabilities.view_mut(side),
                        dropped.view_mut(side),
                        out.view_mut(side),
                    );

                    let cache = AttentionCache {
                        qkv: qkv.view(side),
                        probabilities: probabilities.view(side),
                        out: out.view(side),
                    };

                    let scratch = AttentionScratch {
                        dropped: dropped.view_mut(side),
                        dscores: dscores.view_mut(side),
                    };

                    let target = dqkv.view_mut(side);
                    attention.backward(sequences, dropout, cache, dout.view(side), scratch, target);
                }

                out.assert_agree("attention", 4.0);
                dqkv.assert_agree("attention's gradient", 4.0);
            }
        }
    }
}

/// A case of flash attention.
#[derive(Clone, Copy)]
struct FlashCase<'a> {
    heads: usize,
    head_width: usize,
    lengths: &'a [usize],
    dropout: f32,
}

#[test]
fn flash_attention_on_a_device_is_the_cpus_attention() {
    let case = |heads, head_width, lengths, dropout| FlashCase {
        heads,
        head_width,
        lengths,
        dropout,
    };

    let cases = [
        case(2, 64, &[67, 67][..], 0.0),
        case(3, 64, &[5, 1, 17, 33], 0.0),
        case(2, 64, &[31, 70, 2], 0.3),
        case(1, 80, &[19, 64], 0.1),
    ];

    for case in cases {
        for (pooling, padded) in [
            (Pooling::AllTokens, false),
            (Pooling::FirstToken, false),
            (Pooling::AllTokens, true),
        ] {
            compare_flash(case, pooling, padded);
        }
    }
}

fn compare_flash(case: FlashCase<'_>, pooling: Pooling, padded: bool) {
    let FlashCase {
        heads,
        head_width,
        lengths,
        dropout: rate,
    } = case;

    let what =
        format!("{heads} heads of {head_width}, {lengths:?}, {rate}, {pooling:?}, padded {padded}");

    let width = heads * head_width;
    let sequences = FlashSequences::new(lengths, padded);
    let on_host = sequences.on_host(pooling);
    let max_tokens = lengths.iter().copied().max().unwrap();
    let tokens = on_host.token_count();
    let pooled = on_host.pooled_count();

    let dropout = Dropout::new(1, 2, 3).at_site(4, rate);
    let dtype = DType::Bf16;
    let qkv = uniform_values(tokens * 3 * width, 1, dtype);
    let dout = uniform_values(pooled * width, 2, dtype);

    let host = Attention::for_memory(&Memory::Host, heads, width, max_tokens, Precision::Fp32);
    let (out, dqkv) = run_attention(host, &Memory::Host, on_host, dropout, &qkv, &dout);
    let (out, dqkv) = (out.to_host().into_owned(), dqkv.to_host().into_owned());

    let memory = device_memory(dtype);
    let device = Attention::for_memory(&memory, heads, width, max_tokens, Precision::Bf16);
    assert!(device.flash, "{what}");
    let on_device = sequences.on_device(pooling);
    let (found, dfound) = run_attention(device, &memory, on_device, dropout, &qkv, &dout);
    DEVICE.synchronize().unwrap();

    let what_out = format!("{what}: out");
    assert_relative(&what_out, &found.to_host(), &out, 3.0 / 256.0);
    let what_dqkv = format!("{what}: dqkv");
    assert_relative(&what_dqkv, &dfound.to_host(), &dqkv, 4.0 / 256.0);
}

/// Sequences of which every fifth token is padding, if any is.
struct FlashSequences {
    offsets: Vec<usize>,
    device_offsets: DeviceBuffer,
    ids: Option<(Vec<u32>, DeviceBuffer)>,
}

impl FlashSequences {
    fn new(lengths: &[usize], padded: bool) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });

        let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let tokens = offsets[lengths.len()] as u32;
        let ids: Vec<u32> = (0..tokens).map(|i| u32::from(i % 5 != 3)).collect();
        let device_offsets: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
        let device_ids = upload_indices(&ids);

        Self {
            device_offsets: upload_indices(&device_offsets),
            ids: padded.then_some((ids, device_ids)),
            offsets,
        }
    }

    fn on_host(&self, pooling: Pooling) -> Sequences<'_> {
        let sequences = Sequences::new(&self.offsets).with_pooling(pooling);
        match &self.ids {
            Some((ids, _)) => sequences.with_padding(ids),
            None => sequences,
        }
    }

    fn on_device(&self, pooling: Pooling) -> Sequences<'_> {
        self.on_host(pooling).with_device(DeviceSequenceView {
            offsets: self.device_offsets.as_view(),
            token_ids: self.ids.as_ref().map(|(_, ids)| ids.as_view()),
        })
    }
}

/// `out` and `dqkv`, written over numbers that no forward or backward may leave.
fn run_attention(
    attention: Attention,
    memory: &Memory,
    sequences: Sequences<'_>,
    dropout: Dropout,
    qkv: &[f32],
    dout: &[f32],
) -> (Tensor, Tensor) {
    let pooled = sequences.pooled_count();
    let filled = |values: &[f32]| {
        let mut tensor = memory.alloc_activations(values.len());
        tensor.copy_from(TensorView::Host(values));
        tensor
    };

    let qkv = filled(qkv);
    let mut out = filled(&vec![9.0; dout.len()]);
    let mut dqkv = filled(&vec![9.0; qkv.len()]);
    let dout = filled(dout);
    let [mut probabilities, mut dropped, mut dscores] =
        [0; 3].map(|_| attention.alloc_probabilities(memory, pooled));

    attention.forward(
        sequences,
        dropout,
        qkv.view(),
        probabilities.view_mut(),
        dropped.view_mut(),
        out.view_mut(),
    );

    let cache = AttentionCache {
        qkv: qkv.view(),
        probabilities: probabilities.view(),
        out: out.view(),
    };

    let scratch = AttentionScratch {
        dropped: dropped.view_mut(),
        dscores: dscores.view_mut(),
    };

    attention.backward(
        sequences,
        dropout,
        cache,
        dout.view(),
        scratch,
        dqkv.view_mut(),
    );
    (out, dqkv)
}
