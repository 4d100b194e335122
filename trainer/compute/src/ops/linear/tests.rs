//! The linear layer: its gradients against autograd, and the device against the CPU.

use cnclip_compute::device::DType;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::linear::{Linear, add_column_sums};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::TensorViewMut;

use crate::autograd::{
    TestParams, assert_close, autograd, normal_values, plus_one, random_params, tensor, var,
};
use crate::device_under_test::{DTYPES, device_memory, precision};
use crate::host_and_device::{HostAndDevice, SIDES};

#[test]
fn a_linear_layer_is_candles() {
    let rows = 7;
    let inputs = 5;
    let outputs = 37;
    let mut layout = ParamLayout::default();
    let linear = Linear::declare_params(
        &mut layout,
        "l",
        inputs,
        outputs,
        ParamInit::Zeros,
        ParamInit::Zeros,
    );

    let TestParams {
        values,
        mut gradients,
        ..
    } = random_params(layout);

    let x = normal_values(rows * inputs, 1);
    let dy = normal_values(rows * outputs, 2);
    let mut y = normal_values(rows * outputs, 3);
    let mut dx = normal_values(rows * inputs, 4);
    let y_before = y.clone();
    let dx_before = dx.clone();
    let gradient = &mut TensorViewMut::from(&mut gradients);

    linear.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        Accumulate::Yes,
    );
    linear.backward(
        (&values).into(),
        gradient,
        (&x).into(),
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::Yes,
    );

    let (weight, bias) = values.split_at(inputs * outputs);
    let weight = var(weight, &[outputs, inputs]);
    let bias = var(bias, &[outputs]);
    let x = var(&x, &[rows, inputs]);
    let (right, d) = autograd(&[&x, &weight, &bias], &dy, || {
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
    let TestParams {
        values,
        mut gradients,
        ..
    } = random_params(layout);

    let x = normal_values(rows * inputs, 1);
    let dy = normal_values(rows * outputs, 2);
    let mut y = vec![9.0; rows * outputs];
    let mut dx = vec![9.0; rows * inputs];
    let gradient = &mut TensorViewMut::from(&mut gradients);

    projection.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        Accumulate::No,
    );

    projection.backward(
        (&values).into(),
        gradient,
        (&x).into(),
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::No,
    );

    let x = var(&x, &[rows, inputs]);
    let weight = var(&values, &[inputs, outputs]);
    let (right, d) = autograd(&[&x, &weight], &dy, || x.matmul(&weight));
    assert_close("y", &y, &right);
    assert_close("dx", &dx, &d[0]);
    assert_close("weight", &gradients, &plus_one(&d[1]));
}

#[test]
fn a_linear_layer_on_a_device_is_the_cpus() {
    for dtype in DTYPES {
        for (rows, inputs, outputs) in [(1, 8, 16), (13, 24, 40), (67, 17, 31)] {
            for (accumulate, projects) in [Accumulate::No, Accumulate::Yes]
                .into_iter()
                .zip([false, true])
            {
                let mut layout =
                    ParamLayout::new(precision(dtype)).with_memory(&device_memory(dtype));
                let linear = if projects {
                    let weight = layout.register_weight("w", &[inputs, outputs], ParamInit::Zeros);
                    Linear::new_projection(weight, inputs)
                } else {
                    let zeros = ParamInit::Zeros;
                    Linear::declare_params(&mut layout, "l", inputs, outputs, zeros, zeros)
                };

                let values = HostAndDevice::weights(layout.next_offset(), 1, dtype);
                let mut gradients = HostAndDevice::f32s(layout.next_offset(), 2, dtype);
                let x = HostAndDevice::activations(rows * inputs, 3, dtype);
                let dy = HostAndDevice::activations(rows * outputs, 4, dtype);
                let mut y = HostAndDevice::activations(rows * outputs, 5, dtype);
                let mut dx = HostAndDevice::activations(rows * inputs, 6, dtype);

                for side in SIDES {
                    linear.forward(
                        values.view(side),
                        x.view(side),
                        y.view_mut(side),
                        accumulate,
                    );
                    linear.backward(
                        values.view(side),
                        &mut gradients.view_mut(side),
                        x.view(side),
                        dy.view(side),
                        dx.view_mut(side),
                        accumulate,
                    );
                }

                y.assert_agree("linear y", 1.0);
                dx.assert_agree("linear dx", 1.0);
                gradients.assert_agree("linear gradients", 0.1);
            }
        }
    }
}

#[test]
fn column_sums_on_a_device_are_the_cpus() {
    for dtype in DTYPES {
        for (rows, width) in [(1, 1), (31, 64), (2003, 17), (777, 200)] {
            let x = HostAndDevice::activations(rows * width, 1, dtype);
            let mut sums = HostAndDevice::f32s(width, 2, DType::F32);
            let mut again = HostAndDevice::f32s(width, 2, DType::F32);

            for side in SIDES {
                add_column_sums(x.view(side), sums.view_mut(side));
                add_column_sums(x.view(side), again.view_mut(side));
            }

            sums.assert_agree("sums of columns", 0.0);
            assert_eq!(
                sums.device_values(),
                again.device_values(),
                "the same sums each time"
            );
        }
    }
}
