//! Batch normalization: its gradients against autograd, and the device against the CPU.

use std::sync::Arc;

use cnclip_compute::collective::Collective;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::batch_norm::{
    BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::autograd::{
    TestParams, assert_close, autograd, normal_values, plus_one, random_params, small_values,
    tensor, var,
};
use crate::comparison::{Setup, compare};

/// A batch normalization on the CPU with random parameters and positive running variances.
struct HostNorm {
    norm: BatchNorm,
    params: TestParams,
    moments: BatchNormMoments,
    sums: BatchNormWorkspace,
}

impl HostNorm {
    fn new(width: usize) -> Self {
        let mut layout = ParamLayout::default();
        let mut sums = BatchNormWorkspace::default();
        let norm = BatchNorm::declare_params(&mut layout, "bn", width, ParamInit::Ones, &mut sums);
        let mut params = random_params(layout);
        params.buffers = normal_values(params.buffers.len(), 98)
            .iter()
            .map(|value| value.abs() + 0.1)
            .collect();

        Self {
            norm,
            params,
            moments: BatchNormMoments::new(&Memory::Host, width),
            sums,
        }
    }
}

/// Rows and channels: fewer than one span, as many as a span has, and many parts.
const HOST_SIZES: [(usize, usize); 3] = [(67, 5), (11, 300), (5000, 3)];

#[test]
fn batch_normalization_in_training_is_candles() {
    for (rows, width) in HOST_SIZES {
        for (accumulate, activation) in [
            (Accumulate::Yes, PostActivation::Identity),
            (Accumulate::No, PostActivation::Relu),
        ] {
            let HostNorm {
                norm,
                mut params,
                mut moments,
                mut sums,
            } = HostNorm::new(width);
            // As large a mean as candle's own sum over so many rows can take.
            let mean = 200.0 / rows as f32;
            let x: Vec<f32> = normal_values(rows * width, 1)
                .iter()
                .map(|value| value + mean)
                .collect();

            let dy = small_values(x.len(), 2);
            let before = normal_values(x.len(), 3);
            let mut y = before.clone();
            let mut dx = dy.clone();
            let values = TensorView::Host(&params.values);
            let state = &mut TensorViewMut::Host(&mut params.buffers);
            let x_view = TensorView::Host(&x);

            norm.compute_batch_stats(values, state, x_view, &mut moments, &mut sums);
            norm.apply_normalization(
                &moments,
                x_view,
                TensorViewMut::Host(&mut y),
                accumulate,
                activation,
            );
            let gradients = &mut TensorViewMut::Host(&mut params.gradients);
            let dx_view = TensorViewMut::Host(&mut dx);
            norm.backward(gradients, x_view, &moments, &mut sums, dx_view, activation);

            let (weight, bias) = params.values.split_at(width);
            let weight = var(weight, &[width]);
            let bias = var(bias, &[width]);
            let x = var(&x, &[rows, width]);
            let (right, d) = autograd(&[&x, &weight, &bias], &dy, || {
                let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?;
                let unit = centred.broadcast_div(&deviation)?;
                let y = unit.broadcast_mul(&weight)?.broadcast_add(&bias)?;

                if activation == PostActivation::Relu {
                    y.relu()
                } else {
                    y + tensor(&before, &[rows, width])
                }
            });

            let what = format!("{rows} × {width}, {activation:?}");
            assert_close(&format!("{what}: y"), &y, &right);
            assert_close(&format!("{what}: dx"), &dx, &d[0]);
            let right = plus_one(&[&d[1][..], &d[2]].concat());
            assert_close(&format!("{what}: weights"), &params.gradients, &right);
        }
    }
}

#[test]
fn batch_normalization_in_evaluation_takes_the_running_statistics() {
    for (rows, width) in HOST_SIZES {
        let HostNorm {
            norm,
            params,
            mut moments,
            ..
        } = HostNorm::new(width);
        let x = normal_values(rows * width, 1);
        let mut y = vec![9.0; rows * width];
        norm.load_running_stats(
            TensorView::Host(&params.values),
            TensorView::Host(&params.buffers),
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
            let mean = params.buffers[i];
            let variance = params.buffers[width + i];
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
    let HostNorm {
        norm,
        mut params,
        mut moments,
        mut sums,
    } = HostNorm::new(2);
    params.buffers = vec![5.0, 6.0, 7.0, 8.0, 3.0];
    let x = [1.0, 10.0, 2.0, 20.0, 6.0, 30.0];
    let values = TensorView::Host(&params.values);
    let state = &mut TensorViewMut::Host(&mut params.buffers);

    norm.compute_batch_stats(values, state, TensorView::Host(&x), &mut moments, &mut sums);
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

    assert_close("state", &params.buffers, &right);
}

/// Rows and channels: few of each, many of each, and no two row counts alike.
const DEVICE_SIZES: [(usize, usize); 5] = [(67, 5), (11, 300), (5000, 3), (1009, 64), (40_001, 2)];

/// A collective as if another rank had the same rows.
#[derive(Debug)]
struct TwoEqualRanks;

impl Collective for TwoEqualRanks {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        2
    }
    fn all_reduce_sum_f64(&self, values: &mut [f64]) {
        values.iter_mut().for_each(|value| *value *= 2.0);
    }
    fn all_gather_f32(&self, _: &mut [f32]) {}
}

/// A batch normalization, its values and its running statistics in the memory of a setup.
fn norm_in(
    setup: &Setup,
    width: usize,
    sums: &mut BatchNormWorkspace,
) -> (BatchNorm, Tensor, Tensor) {
    let norm = BatchNorm::declare_params(&mut setup.layout(), "bn", width, ParamInit::Ones, sums);
    let mut state = setup.f32s(2 * width + 1, 2);
    state.update_on_host(|state| {
        state
            .iter_mut()
            .for_each(|value| *value = value.abs() + 0.1)
    });

    (norm, setup.f32s(2 * width, 1), state)
}

#[test]
fn batch_normalization_in_training_on_a_device_is_the_cpus() {
    for (rows, width) in DEVICE_SIZES {
        for (accumulate, activation) in [
            (Accumulate::Yes, PostActivation::Identity),
            (Accumulate::No, PostActivation::Relu),
        ] {
            for synchronized in [false, true] {
                let names = [("y", 1.0), ("state", 0.0), ("gradients", 0.0), ("dx", 1.0)];
                compare(
                    &format!("{rows} × {width}, {activation:?}, {synchronized}"),
                    names,
                    |setup| {
                        let mut sums = BatchNormWorkspace::default();
                        let (norm, values, mut state) = norm_in(setup, width, &mut sums);
                        if synchronized {
                            sums.sync_across_ranks(Arc::new(TwoEqualRanks));
                        }

                        let mut moments = BatchNormMoments::new(&setup.memory, width);
                        let x = setup.shifted_activations(rows * width, 3, 4.0);
                        let mut y = setup.activations(x.len(), 4);
                        let mut dy = setup.activations(x.len(), 5);
                        let mut gradients = setup.f32s(2 * width, 6);

                        norm.compute_batch_stats(
                            values.view(),
                            &mut state.view_mut(),
                            x.view(),
                            &mut moments,
                            &mut sums,
                        );
                        norm.apply_normalization(
                            &moments,
                            x.view(),
                            y.view_mut(),
                            accumulate,
                            activation,
                        );
                        norm.backward(
                            &mut gradients.view_mut(),
                            x.view(),
                            &moments,
                            &mut sums,
                            dy.view_mut(),
                            activation,
                        );

                        [y, state, gradients, dy]
                    },
                );
            }
        }
    }
}

#[test]
fn batch_normalization_in_evaluation_on_a_device_is_the_cpus() {
    for (rows, width) in DEVICE_SIZES {
        compare(&format!("{rows} × {width}"), [("y", 1.0)], |setup| {
            let (norm, values, state) = norm_in(setup, width, &mut BatchNormWorkspace::default());
            let mut moments = BatchNormMoments::new(&setup.memory, width);
            let x = setup.activations(rows * width, 3);
            let mut y = setup.activations(x.len(), 4);
            norm.load_running_stats(values.view(), state.view(), &mut moments);
            norm.apply_normalization(
                &moments,
                x.view(),
                y.view_mut(),
                Accumulate::Yes,
                PostActivation::Relu,
            );

            [y]
        });
    }
}
