//! Attention of one query on a device: a block of threads for each head of each picture.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::attention_pool::SingleQueryAttention;

/// Writes `out` and the probabilities.
pub(crate) fn forward(
    query: SingleQueryAttention,
    q: DeviceView<'_>,
    kv: DeviceView<'_>,
    mut probabilities: DeviceViewMut<'_>,
    mut out: DeviceViewMut<'_>,
) {
    let launch = pool_kernel(query, "query_forward", q)
        .arg_input(q)
        .arg_input(kv);
    with_shape_args(
        query,
        launch.arg_output(&mut probabilities).arg_output(&mut out),
    )
    .launch_on(q.device());
}

/// Writes `dq` and `dkv`.
pub(crate) fn backward(
    query: SingleQueryAttention,
    (q, kv): (DeviceView<'_>, DeviceView<'_>),
    (probabilities, out): (DeviceView<'_>, DeviceView<'_>),
    dout: DeviceView<'_>,
    (mut dq, mut dkv): (DeviceViewMut<'_>, DeviceViewMut<'_>),
) {
    let launch = pool_kernel(query, "query_backward", q)
        .arg_input(q)
        .arg_input(kv);
    let launch = launch
        .arg_input(probabilities)
        .arg_input(out)
        .arg_input(dout);
    with_shape_args(query, launch.arg_output(&mut dq).arg_output(&mut dkv)).launch_on(q.device());
}

fn pool_kernel(query: SingleQueryAttention, name: &str, q: DeviceView<'_>) -> KernelLaunch {
    let pictures = q.len() / query.width;
    let heads = query.heads;
    KernelLaunch::for_dtype(name, q.dtype())
        .with_grid(heads, pictures, 1)
        .with_threads(128)
}

fn with_shape_args(query: SingleQueryAttention, launch: KernelLaunch) -> KernelLaunch {
    let SingleQueryAttention { heads, tokens, .. } = query;
    launch
        .arg_u32(heads)
        .arg_u32(query.head_width())
        .arg_u32(tokens)
        .arg_f32(query.softmax_scale())
}
