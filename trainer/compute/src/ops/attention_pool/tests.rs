//! Attention of a single query: its gradients against autograd, and the device against the CPU.

use candle_core::D;
use cnclip_compute::ops::attention_pool::{SingleQueryAttention, SingleQueryCache};
use cnclip_compute::tensor::{TensorView, TensorViewMut};

use crate::autograd::{assert_close, autograd, normal_values, var};
use crate::comparison::compare;

#[test]
fn attention_of_a_single_query_is_candles() {
    let batch = 3;
    let heads = 2;
    let tokens = 7;
    let width = 10;
    let query = SingleQueryAttention {
        heads,
        width,
        tokens,
    };

    let q = normal_values(batch * width, 1);
    let kv = normal_values(batch * tokens * 2 * width, 2);
    let dout = normal_values(q.len(), 3);
    let mut rows = vec![9.0; batch * heads * tokens];
    let mut out = vec![9.0; q.len()];
    let mut dq = vec![9.0; q.len()];
    let mut dkv = vec![9.0; kv.len()];
    query.forward(
        TensorView::Host(&q),
        TensorView::Host(&kv),
        TensorViewMut::Host(&mut rows),
        TensorViewMut::Host(&mut out),
    );

    let cache = SingleQueryCache {
        q: TensorView::Host(&q),
        kv: TensorView::Host(&kv),
        probabilities: TensorView::Host(&rows),
        out: TensorView::Host(&out),
    };

    query.backward(
        cache,
        TensorView::Host(&dout),
        TensorViewMut::Host(&mut dq),
        TensorViewMut::Host(&mut dkv),
    );

    let d = width / heads;
    let q = var(&q, &[batch, 1, heads, d]);
    let kv = var(&kv, &[batch, tokens, 2, heads, d]);
    let (right, gradients) = autograd(&[&q, &kv], &dout, || {
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

#[test]
fn attention_of_a_single_query_on_a_device_is_the_cpus() {
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
            |setup| {
                let query = SingleQueryAttention {
                    heads,
                    width: heads * size,
                    tokens,
                };

                let q = batch * query.width;
                let kv = batch * tokens * 2 * query.width;
                let mut out = setup.activations(q, 1);
                let mut dq = setup.activations(q, 2);
                let mut dkv = setup.activations(kv, 3);
                let dout = setup.activations(q, 6);
                let q = setup.activations(q, 4);
                let kv = setup.activations(kv, 5);
                let mut rows = setup.f32s(batch * heads * tokens, 7);

                query.forward(q.view(), kv.view(), rows.view_mut(), out.view_mut());
                let cache = SingleQueryCache {
                    q: q.view(),
                    kv: kv.view(),
                    probabilities: rows.view(),
                    out: out.view(),
                };

                query.backward(cache, dout.view(), dq.view_mut(), dkv.view_mut());

                [rows, out, dq, dkv]
            },
        );
    }
}
