//! Embedding of tokens: its gradients against autograd, and the device against the CPU.

use candle_core::{Device, Tensor};
use cnclip_compute::device::DType;
use cnclip_compute::ops::embedding::{self, EmbeddingTables};
use cnclip_compute::ops::sequences::{Pooling, Sequences};

use crate::autograd::{assert_close, autograd, normal_values, plus_one, tensor, var};
use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, SIDES, Side, TestSequences, test_sequences};

#[test]
fn embeddings_are_candles() {
    let offsets = [0, 2, 3, 7];
    let ids = [5, 0, 5, 3, 1, 5, 2];
    let width = 11;
    let sequences = Sequences::new(&offsets);
    let words = normal_values(6 * width, 1);
    let positions = normal_values(4 * width, 2);
    let kind = normal_values(width, 3);
    let dy = normal_values(7 * width, 4);

    let mut y = vec![9.0; 7 * width];
    let tables = EmbeddingTables {
        words: (&words).into(),
        positions: (&positions).into(),
        token_type: (&kind).into(),
    };

    embedding::forward(tables, sequences, (&ids[..]).into(), (&mut y).into());
    let mut dwords = vec![1.0; 6 * width];
    let mut dpositions = vec![1.0; 4 * width];
    let rows = (&dy).into();
    embedding::backward_words((&ids[..]).into(), width, rows, (&mut dwords).into());
    embedding::backward_positions(sequences, width, rows, (&mut dpositions).into());

    let words = var(&words, &[6, width]);
    let positions = var(&positions, &[4, width]);
    let ids = Tensor::new(&ids, &Device::Cpu).unwrap();
    let places = Tensor::new(&[0u32, 1, 0, 0, 1, 2, 3], &Device::Cpu).unwrap();
    let (right, mut d) = autograd(&[&words, &positions], &dy, || {
        let sum = (words.index_select(&ids, 0)? + positions.index_select(&places, 0)?)?;
        sum.broadcast_add(&tensor(&kind, &[width]))
    });

    assert_close("y", &y, &right);
    d[0][..width].fill(0.0); // padding learns nothing
    assert_close("words", &dwords, &plus_one(&d[0]));
    assert_close("positions", &dpositions, &plus_one(&d[1]));
}

#[test]
fn embeddings_on_a_device_are_the_cpus() {
    for (dtype, width) in DTYPES
        .into_iter()
        .flat_map(|dtype| [(dtype, 24), (dtype, 331)])
    {
        for texts in test_sequences() {
            let sequences = |side| texts.on(side, Pooling::AllTokens);
            let tokens = sequences(Side::Host).token_count();
            let words = HostAndDevice::weights(8 * width, 1, dtype);
            let positions = HostAndDevice::weights(70 * width, 2, dtype);
            let kind = HostAndDevice::weights(width, 3, dtype);
            let dy = HostAndDevice::activations(tokens * width, 4, dtype);
            let mut y = HostAndDevice::activations(tokens * width, 5, dtype);
            let mut dwords = HostAndDevice::f32s(8 * width, 6, DType::F32);

            let mut dpositions = HostAndDevice::f32s(70 * width, 7, DType::F32);
            for side in SIDES {
                let words = words.view(side);
                let positions = positions.view(side);
                let kind = kind.view(side);
                let tables = EmbeddingTables {
                    words,
                    positions,
                    token_type: kind,
                };

                let ids = texts.ids.view(side);
                embedding::forward(tables, sequences(side), ids, y.view_mut(side));
                embedding::backward_words(ids, width, dy.view(side), dwords.view_mut(side));
                let target = dpositions.view_mut(side);
                embedding::backward_positions(sequences(side), width, dy.view(side), target);
            }

            y.assert_agree("embeddings", 1.0);
            dwords.assert_agree("words' gradient", 0.0);
            dpositions.assert_agree("positions' gradient", 0.0);
        }
    }

    // More tokens than a block compares at a time.
    let texts = TestSequences::new(&[300, 411], false);
    let dy = HostAndDevice::activations(711 * 8, 1, DType::F32);
    let mut dwords = HostAndDevice::f32s(64, 2, DType::F32);

    for side in SIDES {
        embedding::backward_words(
            texts.ids.view(side),
            8,
            dy.view(side),
            dwords.view_mut(side),
        );
    }

    dwords.assert_agree("words' gradient", 0.0);
}
