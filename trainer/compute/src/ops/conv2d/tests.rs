//! Convolution: its gradients against autograd, and the device against the CPU.

use cnclip_compute::ops::conv2d::{Conv2d, ConvShape, ConvWorkspace};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{TensorView, TensorViewMut};

use crate::autograd::{
    TestParams, assert_close, autograd, channels_first, channels_last, normal_values, plus_one,
    random_params, small_values, var,
};
use crate::comparison::compare;

#[test]
fn a_convolution_is_candles() {
    let batch = 3;
    let outputs = 19;
    // The last is laid out in more than one piece.
    for (side, inputs, stride) in [(7, 5, 1), (7, 5, 2), (6, 5, 2), (1, 2, 1), (33, 29, 1)] {
        let mut layout = ParamLayout::default();
        let mut workspace = ConvWorkspace::default();
        let shape = ConvShape {
            inputs,
            outputs,
            side,
            stride,
        };

        let conv = Conv2d::declare_params(&mut layout, "c", shape, &mut workspace);
        let TestParams {
            values,
            mut gradients,
            ..
        } = random_params(layout);

        let x = normal_values(batch * side * side * inputs, 1);
        let dy = small_values(batch * side.div_ceil(stride).pow(2) * outputs, 2);
        let mut y = vec![9.0; dy.len()];
        let mut dx = vec![9.0; x.len()];
        conv.forward(
            TensorView::Host(&values),
            TensorView::Host(&x),
            TensorViewMut::Host(&mut y),
            &mut workspace,
        );

        let gradient = &mut TensorViewMut::Host(&mut gradients);
        conv.backward_weights(
            gradient,
            TensorView::Host(&x),
            TensorView::Host(&dy),
            &mut workspace,
        );

        let x = var(&x, &[batch, side, side, inputs]);
        let weight = var(&values, &[outputs, inputs, 3, 3]);
        let (right, d) = autograd(&[&x, &weight], &dy, || {
            channels_last(&channels_first(&x)?.conv2d(&weight, 1, stride, 1, 1)?)
        });

        let what = format!("side {side}, stride {stride}");
        assert_close(&format!("{what}: y"), &y, &right);
        assert_close(&format!("{what}: weight"), &gradients, &plus_one(&d[1]));

        if stride == 1 {
            conv.backward_input(
                TensorView::Host(&values),
                TensorView::Host(&dy),
                TensorViewMut::Host(&mut dx),
                &mut workspace,
            );

            assert_close(&format!("{what}: dx"), &dx, &d[0]);
        }
    }
}

#[test]
fn a_convolution_on_a_device_is_the_cpus() {
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
        compare(&what, names, |setup| {
            let mut layout = setup.layout();
            let mut workspace = ConvWorkspace::default();
            let shape = ConvShape {
                inputs,
                outputs,
                side,
                stride,
            };

            let conv = Conv2d::declare_params(&mut layout, "c", shape, &mut workspace);
            let count = 9 * inputs * outputs;
            let values = setup.weights(count, 1);
            let mut gradients = setup.f32s(count, 2);
            let x = setup.activations(batch * side * side * inputs, 3);

            let dy = setup.activations(batch * line * line * outputs, 4);
            let mut y = setup.activations(dy.len(), 5);
            let mut dx = setup.activations(x.len(), 6);
            conv.forward(values.view(), x.view(), y.view_mut(), &mut workspace);
            let gradient = &mut gradients.view_mut();

            conv.backward_weights(gradient, x.view(), dy.view(), &mut workspace);
            if stride == 1 {
                conv.backward_input(values.view(), dy.view(), dx.view_mut(), &mut workspace);
            }

            [y, gradients, dx]
        });
    }
}
