//! Activation functions: their derivatives against autograd, and the device against the CPU.

use cnclip_compute::ops::activation::Activation;

use crate::autograd::{assert_close, autograd, normal_values, var};
use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, SIDES};

#[test]
fn both_activations_are_candles() {
    let x: Vec<f32> = (-400..400).map(|i| i as f32 / 40.0).collect();
    let dy = normal_values(x.len(), 2);
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let mut y = vec![9.0; x.len()];
        let mut dx = dy.clone();
        activation.forward((&x).into(), (&mut y).into());
        activation.backward((&x).into(), (&mut dx).into());
        let x = var(&x, &[x.len()]);
        let (right, d) = autograd(&[&x], &dy, || match activation {
            Activation::Gelu => x.gelu_erf(),
            Activation::QuickGelu => x.as_tensor() / (((x.as_tensor() * -1.702)?.exp()? + 1.0)?),
        });

        assert_close("y", &y, &right);
        assert_close("dx", &dx, &d[0]);
    }
}

#[test]
fn both_activations_on_a_device_are_the_cpus() {
    for dtype in DTYPES {
        for len in [1, 8, 1009, 4096] {
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let mut x = HostAndDevice::activations(len, 1, dtype);
                let mut y = HostAndDevice::activations(len, 2, dtype);
                let mut dy = HostAndDevice::activations(len, 3, dtype);

                for side in SIDES {
                    x.view_mut(side)
                        .update_on_host(|x| x.iter_mut().for_each(|x| *x *= 8.0));
                    activation.forward(x.view(side), y.view_mut(side));
                    activation.backward(x.view(side), dy.view_mut(side));
                }

                y.assert_agree("activation y", 1.0);
                dy.assert_agree("activation dx", 1.0);
            }
        }
    }
}
