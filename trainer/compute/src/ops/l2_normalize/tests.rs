//! L2 normalization: its gradient against autograd, and the device against the CPU.

use cnclip_compute::device::DType;
use cnclip_compute::ops::l2_normalize;

use crate::autograd::{assert_close, autograd, normal_values, var};
use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, SIDES};

#[test]
fn unit_vectors_are_candles() {
    let rows = 7;
    let width = 37;
    let x = normal_values(rows * width, 1);
    let dy = normal_values(rows * width, 2);
    let mut y = vec![9.0; rows * width];
    let mut dx = vec![9.0; rows * width];

    l2_normalize::forward(width, (&x).into(), (&mut y).into());
    l2_normalize::backward(width, (&x).into(), (&dy).into(), (&mut dx).into());
    let x = var(&x, &[rows, width]);
    let (right, d) = autograd(&[&x], &dy, || {
        x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
    });

    assert_close("y", &y, &right);
    assert_close("dx", &dx, &d[0]);
}

#[test]
fn unit_vectors_on_a_device_are_the_cpus() {
    for dtype in DTYPES {
        for (rows, width) in [(1, 1), (13, 64), (8, 331)] {
            let x = HostAndDevice::f32s(rows * width, 1, DType::F32);
            let mut y = HostAndDevice::f32s(rows * width, 2, DType::F32);
            let dy = HostAndDevice::f32s(rows * width, 3, DType::F32);
            let mut dx = HostAndDevice::activations(rows * width, 4, dtype);

            for side in SIDES {
                l2_normalize::forward(width, x.view(side), y.view_mut(side));
                l2_normalize::backward(width, x.view(side), dy.view(side), dx.view_mut(side));
            }

            y.assert_agree("unit vectors", 0.0);
            dx.assert_agree("unit vectors' gradient", 1.0);
        }
    }
}
