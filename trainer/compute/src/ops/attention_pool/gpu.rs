//! Attention of a single query on a device: a block for each head of each image.

use super::SingleQueryAttention;
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Threads of a block: four warps, which take tokens in turn.
const BLOCK_THREADS: usize = 128;

/// What the backward needs of the forward.
#[derive(Clone, Copy)]
pub(super) struct DeviceCache<'a> {
    pub(super) q: DeviceView<'a>,
    pub(super) kv: DeviceView<'a>,
    pub(super) probabilities: DeviceView<'a>,
    pub(super) out: DeviceView<'a>,
}

/// Writes `out` and the probabilities.
pub(super) fn forward(
    attention: SingleQueryAttention,
    q: DeviceView<'_>,
    kv: DeviceView<'_>,
    mut probabilities: DeviceViewMut<'_>,
    mut out: DeviceViewMut<'_>,
) {
    let launch = pool_kernel(attention, "query_forward", q)
        .arg_input(q)
        .arg_input(kv)
        .arg_output(&mut probabilities)
        .arg_output(&mut out);

    with_shape_args(attention, launch).launch_on(q.device());
}

/// Writes `dq` and `dkv`.
pub(super) fn backward(
    attention: SingleQueryAttention,
    cache: DeviceCache<'_>,
    dout: DeviceView<'_>,
    mut dq: DeviceViewMut<'_>,
    mut dkv: DeviceViewMut<'_>,
) {
    let launch = pool_kernel(attention, "query_backward", cache.q)
        .arg_input(cache.q)
        .arg_input(cache.kv)
        .arg_input(cache.probabilities)
        .arg_input(cache.out)
        .arg_input(dout)
        .arg_output(&mut dq)
        .arg_output(&mut dkv);

    with_shape_args(attention, launch).launch_on(cache.q.device());
}

fn pool_kernel(attention: SingleQueryAttention, name: &str, q: DeviceView<'_>) -> KernelLaunch {
    let images = q.len() / attention.width;
    KernelLaunch::for_dtype(name, q.dtype())
        .with_grid(attention.heads, images, 1)
        .with_threads(BLOCK_THREADS)
}

fn with_shape_args(attention: SingleQueryAttention, launch: KernelLaunch) -> KernelLaunch {
    launch
        .arg_u32(attention.heads)
        .arg_u32(attention.head_width())
        .arg_u32(attention.tokens)
        .arg_f32(attention.softmax_scale())
}
