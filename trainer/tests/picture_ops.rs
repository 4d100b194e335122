//! The operations of the ResNet against what candle's autograd finds for the same formula, at shapes
//! that no two dimensions share.
#![cfg(test)]

#[path = "support/oracle.rs"]
mod oracle;

use candle_core::{D, Result, Tensor};
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention_pool::SingleQueryAttention;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::{
    BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
};
use cnclip_compute::ops::conv2d::{Conv2d, ConvWorkspace};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, TensorView, TensorViewMut};
use oracle::{OracleParams, assert_close, oracle, params, plus_one, random_values, tensor, var};

/// Numbers small enough for long sums.
fn small(length: usize, seed: u64) -> Vec<f32> {
    random_values(length, seed)
        .iter()
        .map(|value| 0.1 * value)
        .collect()
}

/// Channels last to channels first.
fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// Channels first to channels last.
fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

#[test]
fn a_convolution_is_candles() {
    let batch = 3;
    let outputs = 19;
    // The last is laid out in more than one piece.
    for (side, inputs, stride) in [(7, 5, 1), (7, 5, 2), (6, 5, 2), (1, 2, 1), (33, 29, 1)] {
        let mut layout = ParamLayout::default();
        let mut memory = ConvWorkspace::default();
        let size = (side, stride);
        let conv = Conv2d::declare_params(&mut layout, "c", (inputs, outputs), size, &mut memory);
        let OracleParams {
            values,
            mut gradients,
            ..
        } = params(layout);

        let x = random_values(batch * side * side * inputs, 1);
        let dy = small(batch * side.div_ceil(stride).pow(2) * outputs, 2);
        let mut y = vec![9.0; dy.len()];
        let mut dx = vec![9.0; x.len()];
        conv.forward(
            TensorView::Host(&values),
            TensorView::Host(&x),
            TensorViewMut::Host(&mut y),
            &mut memory,
        );

        let gradient = &mut TensorViewMut::Host(&mut gradients);
        conv.backward_weights(
            gradient,
            TensorView::Host(&x),
            TensorView::Host(&dy),
            &mut memory,
        );

        let x = var(&x, &[batch, side, side, inputs]);
        let weight = var(&values, &[outputs, inputs, 3, 3]);
        let (right, d) = oracle(&[&x, &weight], &dy, || {
            channels_last(&channels_first(&x)?.conv2d(&weight, 1, stride, 1, 1)?)
        });

        let what = format!("side {side}, stride {stride}");
        assert_close(&format!("{what}: y"), &y, &right);
        assert_close(&format!("{what}: weight"), &gradients, &plus_one(&d[1]));

        if stride == 1 {
            let pair = (TensorView::Host(&dy), TensorViewMut::Host(&mut dx));
            conv.backward_input(TensorView::Host(&values), pair.0, pair.1, &mut memory);
            assert_close(&format!("{what}: dx"), &dx, &d[0]);
        }
    }
}

/// A declared normalisation, its parameters with positive variances, and its memory.
fn batch_norm(
    width: usize,
) -> (
    BatchNorm,
    OracleParams,
    BatchNormMoments,
    BatchNormWorkspace,
) {
    let mut layout = ParamLayout::default();
    let mut sums = BatchNormWorkspace::default();
    let norm = BatchNorm::declare_params(&mut layout, "bn", width, ParamInit::Ones, &mut sums);
    let mut params = params(layout);
    params.state = random_values(params.state.len(), 98)
        .iter()
        .map(|value| value.abs() + 0.1)
        .collect();

    (
        norm,
        params,
        BatchNormMoments::new(&Memory::Host, width),
        sums,
    )
}

/// Rows and channels: fewer than one span, as many as a span has, and many parts.
const SIZES: [(usize, usize); 3] = [(67, 5), (11, 300), (5000, 3)];

#[test]
fn batch_normalisation_in_training_is_candles() {
    for (rows, width) in SIZES {
        for (onto, then) in [
            (Accumulate::Yes, PostActivation::Identity),
            (Accumulate::No, PostActivation::Relu),
        ] {
            let (norm, mut params, mut moments, mut sums) = batch_norm(width);
            // A mean as large as candle's own sum over so many rows bears.
            let mean = 200.0 / rows as f32;
            let x: Vec<f32> = random_values(rows * width, 1)
                .iter()
                .map(|value| value + mean)
                .collect();

            let dy = small(x.len(), 2);
            let before = random_values(x.len(), 3);
            let mut y = before.clone();
            let mut dx = dy.clone();
            let values = TensorView::Host(&params.values);
            let state = &mut TensorViewMut::Host(&mut params.state);
            let seen = TensorView::Host(&x);

            norm.compute_batch_stats(values, state, seen, (&mut moments, &mut sums));
            norm.apply_normalization(&moments, seen, TensorViewMut::Host(&mut y), onto, then);
            let gradients = &mut TensorViewMut::Host(&mut params.gradients);
            let kept = (seen, &moments, &mut sums);
            norm.backward(gradients, kept, TensorViewMut::Host(&mut dx), then);

            let (weight, bias) = params.values.split_at(width);
            let weight = var(weight, &[width]);
            let bias = var(bias, &[width]);
            let x = var(&x, &[rows, width]);
            let (right, d) = oracle(&[&x, &weight, &bias], &dy, || {
                let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?;
                let unit = centred.broadcast_div(&deviation)?;
                let y = unit.broadcast_mul(&weight)?.broadcast_add(&bias)?;

                if then == PostActivation::Relu {
                    y.relu()
                } else {
                    y + tensor(&before, &[rows, width])
                }
            });

            let what = format!("{rows} × {width}, {then:?}");
            assert_close(&format!("{what}: y"), &y, &right);
            assert_close(&format!("{what}: dx"), &dx, &d[0]);
            let right = plus_one(&[&d[1][..], &d[2]].concat());
            assert_close(&format!("{what}: weights"), &params.gradients, &right);
        }
    }
}

#[test]
fn batch_normalisation_in_evaluation_takes_the_running_statistics() {
    for (rows, width) in SIZES {
        let (norm, params, mut moments, _) = batch_norm(width);
        let x = random_values(rows * width, 1);
        let mut y = vec![9.0; rows * width];
        norm.load_running_stats(
            TensorView::Host(&params.values),
            TensorView::Host(&params.state),
            &mut moments,
        );

        norm.apply_normalization(
            &moments,
            TensorView::Host(&x),
            TensorViewMut::Host(&mut y),
            Accumulate::No,
            PostActivation::Identity,
        );

        let (weight, bias) = params.values.split_at(width);
        for (at, (found, x)) in y.iter().zip(&x).enumerate() {
            let i = at % width;
            let mean = params.state[i];
            let variance = params.state[width + i];
            let right = (x - mean) / (variance + 1e-5).sqrt() * weight[i] + bias[i];
            assert!(
                (found - right).abs() < 2e-5 * right.abs().max(1.0),
                "{found} for {right}"
            );
        }
    }
}

#[test]
fn running_statistics_move_a_tenth_towards_those_of_the_batch() {
    let (norm, mut params, mut moments, mut sums) = batch_norm(2);
    params.state = vec![5.0, 6.0, 7.0, 8.0, 3.0];
    let x = [1.0, 10.0, 2.0, 20.0, 6.0, 30.0];
    let values = TensorView::Host(&params.values);
    let state = &mut TensorViewMut::Host(&mut params.state);

    norm.compute_batch_stats(
        values,
        state,
        TensorView::Host(&x),
        (&mut moments, &mut sums),
    );
    let means = [3.0, 20.0];
    let variances = [7.0, 100.0];
    let moved = |from: f32, to: f32| 0.9 * from + 0.1 * to;
    let right = [
        moved(5.0, means[0]),
        moved(6.0, means[1]),
        moved(7.0, variances[0]),
        moved(8.0, variances[1]),
        4.0,
    ];

    assert_close("state", &params.state, &right);
}

#[test]
fn an_average_pool_is_candles() {
    let batch = 3;
    let side = 6;
    let channels = 5;
    let x = random_values(batch * side * side * channels, 1);
    let dy = random_values(x.len() / 4, 2);
    let before = random_values(x.len(), 3);
    let mut y = vec![9.0; dy.len()];
    let mut dx = before.clone();

    let pool = AveragePool { side, channels };
    pool.forward(TensorView::Host(&x), TensorViewMut::Host(&mut y));
    pool.backward(
        TensorView::Host(&dy),
        TensorViewMut::Host(&mut dx),
        Accumulate::Yes,
    );
    let x = var(&x, &[batch, side, side, channels]);
    let (right, d) = oracle(&[&x], &dy, || {
        channels_last(&channels_first(&x)?.avg_pool2d(2)?)
    });

    assert_close("y", &y, &right);
    let sum: Vec<f32> = d[0].iter().zip(&before).map(|(a, b)| a + b).collect();
    assert_close("dx, added", &dx, &sum);
    dx.fill(f32::NAN);
    pool.backward(
        TensorView::Host(&dy),
        TensorViewMut::Host(&mut dx),
        Accumulate::No,
    );
    assert_close("dx", &dx, &d[0]);
}

#[test]
fn attention_of_one_query_is_candles() {
    let batch = 3;
    let heads = 2;
    let tokens = 7;
    let width = 10;
    let query = SingleQueryAttention {
        heads,
        width,
        tokens,
    };

    let q = random_values(batch * width, 1);
    let kv = random_values(batch * tokens * 2 * width, 2);
    let dout = random_values(q.len(), 3);
    let mut rows = vec![9.0; batch * heads * tokens];
    let mut out = vec![9.0; q.len()];
    let mut dq = vec![9.0; q.len()];
    let mut dkv = vec![9.0; kv.len()];
    let inputs = (TensorView::Host(&q), TensorView::Host(&kv));

    query.forward(
        inputs.0,
        inputs.1,
        TensorViewMut::Host(&mut rows),
        TensorViewMut::Host(&mut out),
    );

    let kept = (TensorView::Host(&rows), TensorView::Host(&out));
    let dout_ = TensorView::Host(&dout);
    query.backward(
        inputs,
        kept,
        dout_,
        (TensorViewMut::Host(&mut dq), TensorViewMut::Host(&mut dkv)),
    );

    let d = width / heads;
    let q = var(&q, &[batch, 1, heads, d]);
    let kv = var(&kv, &[batch, tokens, 2, heads, d]);
    let (right, gradients) = oracle(&[&q, &kv], &dout, || {
        let part = |at| {
            kv.narrow(2, at, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };

        let scores = q.transpose(1, 2)?.contiguous()?.matmul(&part(0)?.t()?)?;
        let weights = (scores / (d as f64).sqrt())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&part(1)?)?.transpose(1, 2)?.contiguous()
    });

    assert_close("out", &out, &right);
    assert_close("dq", &dq, &gradients[0]);
    assert_close("dkv", &dkv, &gradients[1]);
}
