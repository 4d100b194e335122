//! The operations of the residual network.

use std::sync::Arc;

use cnclip_compute::collective::Collective;
use cnclip_compute::device::DType;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention_pool::SingleQueryAttention;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::ops::batch_norm::{
    BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
};
use cnclip_compute::ops::conv2d::{Conv2d, ConvWorkspace};
use cnclip_compute::ops::{mean_pool_token, residual};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_crds::stage::Precision;

use crate::support::{DEVICE, FORMATS, memory, numbers};

/// Where an operation is tried, and in which format its numbers are given.
struct Place(Memory, DType);

impl Place {
    /// Activations.
    fn array(&self, len: usize, seed: u64) -> Tensor {
        self.filled(self.0.alloc_activations(len), &numbers(len, seed, self.1))
    }

    /// Activations around another mean.
    fn shifted(&self, len: usize, seed: u64, by: f32) -> Tensor {
        let mut array = self.0.alloc_activations(len);
        let shifted: Vec<f32> = numbers(len, seed, self.1).iter().map(|x| x + by).collect();
        array.copy_from(TensorView::Host(&shifted));
        // Both memories begin with the same numbers.
        if let Memory::Host = self.0 {
            array.update_on_host(|values| {
                values
                    .iter_mut()
                    .for_each(|x| *x = super::support::rounded(*x, self.1))
            });
        }

        array
    }

    /// Weights, as a product rounds them.
    fn weights(&self, len: usize, seed: u64) -> Tensor {
        self.filled(self.0.alloc_weights(len), &numbers(len, seed, DType::Bf16))
    }

    /// Gradients of weights, or statistics.
    fn exact(&self, len: usize, seed: u64) -> Tensor {
        self.filled(self.0.alloc_f32(len), &numbers(len, seed, DType::F32))
    }

    fn filled(&self, mut array: Tensor, values: &[f32]) -> Tensor {
        array.copy_from(TensorView::Host(values));
        array
    }

    fn layout(&self) -> ParamLayout {
        ParamLayout::new(Precision::Fp32).with_memory(&self.0)
    }
}

/// Fails unless a device finds what this machine finds, each to so many roundings of bfloat16, or to 1e-5
/// of the largest number.
fn compare<const N: usize>(
    what: &str,
    names: [(&str, f32); N],
    run: impl Fn(&Place) -> [Tensor; N],
) {
    for format in FORMATS {
        let right = run(&Place(Memory::Host, format));
        let found = run(&Place(memory(format), format));
        DEVICE.synchronize().unwrap();

        for ((name, roundings), (found, right)) in names.iter().zip(found.iter().zip(&right)) {
            let found = found.to_host();
            let right = right.to_host();
            let bound = if format == DType::Bf16 {
                roundings / 256.0
            } else {
                1e-5_f32
            };

            let largest = right
                .iter()
                .fold(1e-6_f32, |largest, value| largest.max(value.abs()));

            for (i, (found, right)) in found.iter().zip(right.iter()).enumerate() {
                let near = (found - right).abs() <= bound.max(1e-5) * largest;
                assert!(
                    near,
                    "{what}, {name}, {format:?}: {i} is {found}, not {right} of {largest}"
                );
            }
        }
    }
}

#[test]
fn convolutions_are_those_of_this_machine() {
    // The last is laid out in more than one piece.
    let sizes = [
        (3, 7, 5, 19, 1),
        (2, 7, 5, 8, 2),
        (2, 6, 16, 3, 2),
        (1, 1, 2, 2, 1),
    ];

    for (batch, side, inputs, outputs, stride) in sizes.into_iter().chain([(30, 33, 29, 3, 1)]) {
        let what = format!("{batch} × {side}² × {inputs} to {outputs}, stride {stride}");
        let line = usize::div_ceil(side, stride);
        let names = [("y", 1.0), ("weight", 0.0), ("dx", 1.0)];
        compare(&what, names, |place| {
            let mut layout = place.layout();
            let mut space = ConvWorkspace::default();
            let channels = (inputs, outputs);
            let conv =
                Conv2d::declare_params(&mut layout, "c", channels, (side, stride), &mut space);
            let count = 9 * inputs * outputs;
            let values = place.weights(count, 1);
            let mut gradients = place.exact(count, 2);
            let x = place.array(batch * side * side * inputs, 3);

            let dy = place.array(batch * line * line * outputs, 4);
            let mut y = place.array(dy.len(), 5);
            let mut dx = place.array(x.len(), 6);
            conv.forward(values.view(), x.view(), y.view_mut(), &mut space);
            let gradient = &mut gradients.view_mut();

            conv.backward_weights(gradient, x.view(), dy.view(), &mut space);
            if stride == 1 {
                conv.backward_input(values.view(), dy.view(), dx.view_mut(), &mut space);
            }

            [y, gradients, dx]
        });
    }
}

/// As if another rank had the same rows.
#[derive(Debug)]
struct Twice;

impl Collective for Twice {
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

/// A declared normalisation, its values and its state.
fn batch_norm(
    place: &Place,
    width: usize,
    sums: &mut BatchNormWorkspace,
) -> (BatchNorm, Tensor, Tensor) {
    let norm = BatchNorm::declare_params(&mut place.layout(), "bn", width, ParamInit::Ones, sums);
    let mut state = place.exact(2 * width + 1, 2);
    state.update_on_host(|state| {
        state
            .iter_mut()
            .for_each(|value| *value = value.abs() + 0.1)
    });

    (norm, place.exact(2 * width, 1), state)
}

/// Rows and channels: few of each, many of each, and no two shares alike.
const SIZES: [(usize, usize); 5] = [(67, 5), (11, 300), (5000, 3), (1009, 64), (40_001, 2)];

#[test]
fn batch_normalisation_in_training_is_that_of_this_machine() {
    for (rows, width) in SIZES {
        for (onto, then) in [
            (Accumulate::Yes, PostActivation::Identity),
            (Accumulate::No, PostActivation::Relu),
        ] {
            for together in [false, true] {
                let names = [("y", 1.0), ("state", 0.0), ("gradients", 0.0), ("dx", 1.0)];
                compare(
                    &format!("{rows} × {width}, {then:?}, {together}"),
                    names,
                    |place| {
                        let mut sums = BatchNormWorkspace::default();
                        let (norm, values, mut state) = batch_norm(place, width, &mut sums);
                        if together {
                            sums.sync_across_ranks(Arc::new(Twice));
                        }

                        let mut moments = BatchNormMoments::new(&place.0, width);
                        let x = place.shifted(rows * width, 3, 4.0);
                        let mut y = place.array(x.len(), 4);
                        let mut dy = place.array(x.len(), 5);
                        let mut gradients = place.exact(2 * width, 6);
                        let both = (&mut moments, &mut sums);

                        norm.compute_batch_stats(
                            values.view(),
                            &mut state.view_mut(),
                            x.view(),
                            both,
                        );
                        norm.apply_normalization(&moments, x.view(), y.view_mut(), onto, then);
                        let kept = (x.view(), &moments, &mut sums);
                        norm.backward(&mut gradients.view_mut(), kept, dy.view_mut(), then);

                        [y, state, gradients, dy]
                    },
                );
            }
        }
    }
}

#[test]
fn batch_normalisation_in_evaluation_is_that_of_this_machine() {
    for (rows, width) in SIZES {
        compare(&format!("{rows} × {width}"), [("y", 1.0)], |place| {
            let (norm, values, state) =
                batch_norm(place, width, &mut BatchNormWorkspace::default());
            let mut moments = BatchNormMoments::new(&place.0, width);
            let x = place.array(rows * width, 3);
            let mut y = place.array(x.len(), 4);
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

#[test]
fn pools_are_those_of_this_machine() {
    for (batch, side, channels) in [(3, 6, 5), (1, 2, 64), (2, 14, 31)] {
        let names = [("y", 1.0), ("dx", 1.0), ("dx, added", 1.0)];
        compare(
            &format!("{batch} × {side}² × {channels}"),
            names,
            |place| {
                let pool = AveragePool { side, channels };
                let x = place.array(batch * side * side * channels, 1);
                let mut dx = place.array(x.len(), 2);
                let mut sum = place.array(x.len(), 3);
                let mut y = place.array(x.len() / 4, 4);
                let dy = place.array(x.len() / 4, 5);

                pool.forward(x.view(), y.view_mut());
                pool.backward(dy.view(), dx.view_mut(), Accumulate::No);
                pool.backward(dy.view(), sum.view_mut(), Accumulate::Yes);
                [y, dx, sum]
            },
        );
    }
}

#[test]
fn attention_of_one_query_is_that_of_this_machine() {
    for (batch, heads, tokens, size) in [(3, 2, 7, 5), (2, 3, 50, 64), (1, 1, 300, 131)] {
        let names = [
            ("probabilities", 0.0),
            ("out", 1.0),
            ("dq", 3.0),
            ("dkv", 3.0),
        ];

        compare(
            &format!("{batch} × {heads} × {tokens} × {size}"),
            names,
            |place| {
                let query = SingleQueryAttention {
                    heads,
                    width: heads * size,
                    tokens,
                };

                let q = batch * query.width;
                let kv = batch * tokens * 2 * query.width;
                let mut out = place.array(q, 1);
                let mut dq = place.array(q, 2);
                let mut dkv = place.array(kv, 3);
                let (q, kv, dout) = (place.array(q, 4), place.array(kv, 5), place.array(q, 6));
                let mut rows = place.exact(batch * heads * tokens, 7);

                query.forward(q.view(), kv.view(), rows.view_mut(), out.view_mut());
                let kept = (rows.view(), out.view());
                let to = (dq.view_mut(), dkv.view_mut());
                query.backward((q.view(), kv.view()), kept, dout.view(), to);

                [rows, out, dq, dkv]
            },
        );
    }
}

#[test]
fn branches_meet_as_on_this_machine() {
    for len in [1, 8, 1009, 4096] {
        compare(
            &len.to_string(),
            [("dy", 0.0), ("copy", 0.0), ("sum", 1.0)],
            |place| {
                let y = place.array(len, 1);
                let mut dy = place.array(len, 2);
                let mut copy = place.array(len, 3);
                residual::relu_backward_split(y.view(), dy.view_mut(), copy.view_mut());
                let mut sum = place.array(len, 4);

                residual::add_residual(y.view(), sum.view_mut());
                [dy, copy, sum]
            },
        );
    }
}

#[test]
fn mean_tokens_are_those_of_this_machine() {
    for (batch, places, width) in [(3, 4, 5), (2, 49, 300)] {
        let names = [
            ("tokens", 1.0),
            ("means", 1.0),
            ("positions", 1.0),
            ("dtokens", 1.0),
            ("dx", 1.0),
        ];

        compare(&format!("{batch} × {places} × {width}"), names, |place| {
            let all = (1 + places) * width;
            let positions = place.weights(all, 1);
            let mut gradient = place.exact(all, 2);
            let x = place.array(batch * places * width, 3);
            let mut tokens = place.array(batch * all, 4);
            let mut means = place.array(batch * width, 5);
            let to = (tokens.view_mut(), means.view_mut());

            mean_pool_token::forward(width, positions.view(), x.view(), to);
            let mut dtokens = place.array(batch * all, 6);
            let dmeans = place.array(batch * width, 7);
            let mut dx = place.array(x.len(), 8);
            let from = (dtokens.view_mut(), dmeans.view());

            mean_pool_token::backward(width, gradient.view_mut(), from, dx.view_mut());
            [tokens, means, gradient, dtokens, dx]
        });
    }
}
