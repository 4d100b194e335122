//! Average pooling: its gradient against autograd, and the device against the CPU.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::average_pool::AveragePool;
use cnclip_compute::tensor::{TensorView, TensorViewMut};

use crate::autograd::{assert_close, autograd, channels_first, channels_last, normal_values, var};
use crate::comparison::compare;

#[test]
fn an_average_pool_is_candles() {
    let batch = 3;
    let side = 6;
    let channels = 5;
    let x = normal_values(batch * side * side * channels, 1);
    let dy = normal_values(x.len() / 4, 2);
    let before = normal_values(x.len(), 3);
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
    let (right, d) = autograd(&[&x], &dy, || {
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
fn average_pooling_on_a_device_is_the_cpus() {
    for (batch, side, channels) in [(3, 6, 5), (1, 2, 64), (2, 14, 31)] {
        let names = [("y", 1.0), ("dx", 1.0), ("dx, added", 1.0)];
        compare(
            &format!("{batch} × {side}² × {channels}"),
            names,
            |setup| {
                let pool = AveragePool { side, channels };
                let x = setup.activations(batch * side * side * channels, 1);
                let mut dx = setup.activations(x.len(), 2);
                let mut sum = setup.activations(x.len(), 3);
                let mut y = setup.activations(x.len() / 4, 4);
                let dy = setup.activations(x.len() / 4, 5);

                pool.forward(x.view(), y.view_mut());
                pool.backward(dy.view(), dx.view_mut(), Accumulate::No);
                pool.backward(dy.view(), sum.view_mut(), Accumulate::Yes);
                [y, dx, sum]
            },
        );
    }
}
