//! Every operation's backward against what candle's autograd finds for the same formula in plain
//! differentiable operations, at shapes that no two dimensions share.
#![cfg(test)]

#[path = "support/oracle.rs"]
mod oracle;

use candle_core::{D, Device, Result, Tensor, Var};
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::embedding::{self, EmbeddingTables};
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::sequences::{Pooling, Sequences};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, TensorViewMut};
use cnclip_crds::stage::Precision;
use oracle::{OracleParams, assert_close, oracle, params, plus_one, random_values, tensor, var};

#[test]
fn a_linear_layer_is_candles() {
    let rows = 7;
    let inputs = 5;
    let outputs = 37;
    let mut layout = ParamLayout::default();
    let linear = Linear::declare_params(
        &mut layout,
        "l",
        (inputs, outputs),
        (ParamInit::Zeros, ParamInit::Zeros),
    );

    let OracleParams {
        values,
        mut gradients,
        ..
    } = params(layout);

    let x = random_values(rows * inputs, 1);
    let dy = random_values(rows * outputs, 2);
    let mut y = random_values(rows * outputs, 3);
    let mut dx = random_values(rows * inputs, 4);
    let y_before = y.clone();
    let dx_before = dx.clone();
    let gradient = &mut TensorViewMut::from(&mut gradients);

    linear.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        Accumulate::Yes,
    );
    let weights = ((&values).into(), gradient);
    linear.backward(
        weights,
        (&x).into(),
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::Yes,
    );

    let (weight, bias) = values.split_at(inputs * outputs);
    let weight = var(weight, &[outputs, inputs]);
    let bias = var(bias, &[outputs]);
    let x = var(&x, &[rows, inputs]);
    let (right, d) = oracle(&[&x, &weight, &bias], &dy, || {
        x.matmul(&weight.t()?)?.broadcast_add(&bias)? + tensor(&y_before, &[rows, outputs])
    });

    assert_close("y", &y, &right);
    let sum: Vec<f32> = d[0].iter().zip(&dx_before).map(|(a, b)| a + b).collect();
    assert_close("dx", &dx, &sum);
    assert_close(
        "weights",
        &gradients,
        &plus_one(&[&d[1][..], &d[2]].concat()),
    );
}

#[test]
fn a_projection_is_candles() {
    let rows = 7;
    let inputs = 5;
    let outputs = 37;
    let mut layout = ParamLayout::default();
    let weight = layout.register_weight("proj", &[inputs, outputs], ParamInit::Zeros);
    let projection = Linear::new_projection(weight, inputs);
    let OracleParams {
        values,
        mut gradients,
        ..
    } = params(layout);

    let x = random_values(rows * inputs, 1);
    let dy = random_values(rows * outputs, 2);
    let mut y = vec![9.0; rows * outputs];
    let mut dx = vec![9.0; rows * inputs];
    let gradient = &mut TensorViewMut::from(&mut gradients);

    projection.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        Accumulate::No,
    );

    let weights = ((&values).into(), gradient);
    projection.backward(
        weights,
        (&x).into(),
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::No,
    );

    let x = var(&x, &[rows, inputs]);
    let weight = var(&values, &[inputs, outputs]);
    let (right, d) = oracle(&[&x, &weight], &dy, || x.matmul(&weight));
    assert_close("y", &y, &right);
    assert_close("dx", &dx, &d[0]);
    assert_close("weight", &gradients, &plus_one(&d[1]));
}

#[test]
fn layer_normalisation_is_candles() {
    let rows = 7;
    let width = 37;
    let epsilon = 1e-5;
    let mut layout = ParamLayout::default();
    let norm = LayerNorm::declare_params(&mut layout, "ln", width, epsilon);
    let OracleParams {
        values,
        mut gradients,
        ..
    } = params(layout);

    let x = random_values(rows * width, 1);
    let dy = random_values(rows * width, 2);
    let mut y = vec![9.0; rows * width];
    let mut moments = vec![9.0; rows * MOMENTS_PER_ROW];
    let mut dx = vec![9.0; rows * width];

    norm.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        (&mut moments).into(),
    );

    let weights = ((&values).into(), &mut TensorViewMut::from(&mut gradients));
    let inner = ((&x).into(), (&moments).into());
    norm.backward(
        weights,
        inner,
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::No,
    );

    let weight = var(&values[..width], &[width]);
    let bias = var(&values[width..], &[width]);
    let x = var(&x, &[rows, width]);
    let (right, d) = oracle(&[&x, &weight, &bias], &dy, || {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + f64::from(epsilon))?.sqrt()?;
        centred
            .broadcast_div(&deviation)?
            .broadcast_mul(&weight)?
            .broadcast_add(&bias)
    });

    assert_close("y", &y, &right);
    assert_close("dx", &dx, &d[0]);
    assert_close(
        "weights",
        &gradients,
        &plus_one(&[&d[1][..], &d[2]].concat()),
    );
}

#[test]
fn both_activations_are_candles() {
    let x: Vec<f32> = (-400..400).map(|i| i as f32 / 40.0).collect();
    let dy = random_values(x.len(), 2);
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let mut y = vec![9.0; x.len()];
        let mut dx = dy.clone();
        activation.forward((&x).into(), (&mut y).into());
        activation.backward((&x).into(), (&mut dx).into());
        let x = var(&x, &[x.len()]);
        let (right, d) = oracle(&[&x], &dy, || match activation {
            Activation::Gelu => x.gelu_erf(),
            Activation::QuickGelu => x.as_tensor() / (((x.as_tensor() * -1.702)?.exp()? + 1.0)?),
        });

        assert_close("y", &y, &right);
        assert_close("dx", &dx, &d[0]);
    }
}

/// Attention of packed sequences, one after the other, in plain operations.
fn plain_attention(
    qkv: &Var,
    offsets: &[usize],
    keep: Pooling,
    sizes: Attention,
) -> Result<Tensor> {
    let width = sizes.width;
    let d = sizes.width / sizes.heads;
    let mut rows = Vec::new();

    for pair in offsets.windows(2) {
        let kept = if keep == Pooling::AllTokens {
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

        rows.push(Tensor::cat(&heads, 1)?);
    }

    Tensor::cat(&rows, 0)
}

#[test]
fn attention_over_packed_sequences_is_candles_over_each() {
    let offsets = [0, 3, 4, 17, 22];
    let attention = Attention::for_memory(&Memory::Host, (5, 35), 19, Precision::Fp32);
    for keep in [Pooling::AllTokens, Pooling::FirstToken] {
        let sequences = Sequences::new(&offsets).with_pooling(keep);
        let tokens = sequences.token_count();
        let kept = sequences.pooled_count();
        let qkv = random_values(tokens * 105, 1);
        let dout = random_values(kept * 35, 2);
        let scratch = || vec![9.0; kept * attention.probabilities_per_token()];
        let mut probabilities = scratch();
        let mut dropped = scratch();

        let mut scores = scratch();
        let mut out = vec![9.0; kept * 35];
        let mut dqkv = vec![9.0; tokens * 105];
        let none = Dropout::NONE;
        let weights = ((&mut probabilities).into(), (&mut dropped).into());

        attention.forward(sequences, none, (&qkv).into(), weights, (&mut out).into());
        let saved = ((&qkv).into(), (&probabilities).into(), (&out).into());
        let memory = ((&mut dropped).into(), (&mut scores).into());
        attention.backward(
            sequences,
            none,
            saved,
            (&dout).into(),
            memory,
            (&mut dqkv).into(),
        );

        let qkv = var(&qkv, &[tokens, 105]);
        let (right, d) = oracle(&[&qkv], &dout, || {
            plain_attention(&qkv, &offsets, keep, attention)
        });

        assert_close("out", &out, &right);
        assert_close("dqkv", &dqkv, &d[0]);
    }
}

#[test]
fn unit_vectors_are_candles() {
    let rows = 7;
    let width = 37;
    let x = random_values(rows * width, 1);
    let dy = random_values(rows * width, 2);
    let mut y = vec![9.0; rows * width];
    let mut dx = vec![9.0; rows * width];

    l2_normalize::forward(width, (&x).into(), (&mut y).into());
    l2_normalize::backward(width, (&x).into(), (&dy).into(), (&mut dx).into());
    let x = var(&x, &[rows, width]);
    let (right, d) = oracle(&[&x], &dy, || {
        x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
    });

    assert_close("y", &y, &right);
    assert_close("dx", &dx, &d[0]);
}

#[test]
fn embeddings_are_candles() {
    let offsets = [0, 2, 3, 7];
    let ids = [5, 0, 5, 3, 1, 5, 2];
    let width = 11;
    let sequences = Sequences::new(&offsets);
    let words = random_values(6 * width, 1);
    let positions = random_values(4 * width, 2);
    let kind = random_values(width, 3);
    let dy = random_values(7 * width, 4);

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
    let (right, mut d) = oracle(&[&words, &positions], &dy, || {
        let sum = (words.index_select(&ids, 0)? + positions.index_select(&places, 0)?)?;
        sum.broadcast_add(&tensor(&kind, &[width]))
    });

    assert_close("y", &y, &right);
    d[0][..width].fill(0.0); // padding learns nothing
    assert_close("words", &dwords, &plus_one(&d[0]));
    assert_close("positions", &dpositions, &plus_one(&d[1]));
}
