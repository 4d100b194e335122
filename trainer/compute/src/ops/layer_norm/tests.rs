//! Layer normalization: its gradients against autograd, and the device against the CPU.

use candle_core::D;
use cnclip_compute::device::DType;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::layer_norm::{LayerNorm, LayerNormCache, MOMENTS_PER_ROW};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::TensorViewMut;

use crate::autograd::{
    TestParams, assert_close, autograd, normal_values, plus_one, random_params, var,
};
use crate::device_under_test::{DTYPES, device_memory, precision};
use crate::host_and_device::{HostAndDevice, SIDES};

#[test]
fn layer_normalization_is_candles() {
    let rows = 7;
    let width = 37;
    let epsilon = 1e-5;
    let mut layout = ParamLayout::default();
    let norm = LayerNorm::declare_params(&mut layout, "ln", width, epsilon);
    let TestParams {
        values,
        mut gradients,
        ..
    } = random_params(layout);

    let x = normal_values(rows * width, 1);
    let dy = normal_values(rows * width, 2);
    let mut y = vec![9.0; rows * width];
    let mut moments = vec![9.0; rows * MOMENTS_PER_ROW];
    let mut dx = vec![9.0; rows * width];

    norm.forward(
        (&values).into(),
        (&x).into(),
        (&mut y).into(),
        (&mut moments).into(),
    );

    let cache = LayerNormCache {
        x: (&x).into(),
        moments: (&moments).into(),
    };

    norm.backward(
        (&values).into(),
        &mut TensorViewMut::from(&mut gradients),
        cache,
        (&dy).into(),
        (&mut dx).into(),
        Accumulate::No,
    );

    let weight = var(&values[..width], &[width]);
    let bias = var(&values[width..], &[width]);
    let x = var(&x, &[rows, width]);
    let (right, d) = autograd(&[&x, &weight, &bias], &dy, || {
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
fn layer_normalization_on_a_device_is_the_cpus() {
    for dtype in DTYPES {
        for (rows, width) in [(1, 8), (13, 24), (203, 768), (67, 17), (9, 331)] {
            for accumulate in [Accumulate::No, Accumulate::Yes] {
                let mut layout =
                    ParamLayout::new(precision(dtype)).with_memory(&device_memory(dtype));
                let norm = LayerNorm::declare_params(&mut layout, "n", width, 1e-5);
                let values = HostAndDevice::weights(layout.next_offset(), 1, dtype);
                let mut gradients = HostAndDevice::f32s(layout.next_offset(), 2, DType::F32);
                let x = HostAndDevice::activations(rows * width, 3, dtype);
                let dy = HostAndDevice::activations(rows * width, 4, dtype);
                let mut y = HostAndDevice::activations(rows * width, 5, dtype);
                let mut dx = HostAndDevice::activations(rows * width, 6, dtype);

                let mut moments = HostAndDevice::f32s(rows * 2, 7, DType::F32);
                for side in SIDES {
                    norm.forward(
                        values.view(side),
                        x.view(side),
                        y.view_mut(side),
                        moments.view_mut(side),
                    );

                    let cache = LayerNormCache {
                        x: x.view(side),
                        moments: moments.view(side),
                    };

                    norm.backward(
                        values.view(side),
                        &mut gradients.view_mut(side),
                        cache,
                        dy.view(side),
                        dx.view_mut(side),
                        accumulate,
                    );
                }

                y.assert_agree("layer norm y", 1.0);
                moments.assert_agree("moments", 0.0);
                dx.assert_agree("layer norm dx", 1.0);
                gradients.assert_agree("layer norm gradients", 0.0);
            }
        }
    }
}
