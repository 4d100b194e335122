//! Average pooling on a device: a thread for each element that is written.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::average_pool::AveragePool;

/// Writes `y`.
pub(super) fn forward(pool: AveragePool, x: DeviceView<'_>, mut y: DeviceViewMut<'_>) {
    KernelLaunch::for_dtype("pool_forward", x.dtype())
        .with_thread_per_item(y.len())
        .arg_input(x)
        .arg_output(&mut y)
        .arg_count(y.len())
        .arg_u32(pool.side)
        .arg_u32(pool.channels)
        .launch_on(x.device());
}

/// Writes a quarter of `dy` to each of its four pixels in `dx`, or adds it.
pub(super) fn backward(
    pool: AveragePool,
    dy: DeviceView<'_>,
    mut dx: DeviceViewMut<'_>,
    accumulate: Accumulate,
) {
    KernelLaunch::for_dtype("pool_backward", dy.dtype())
        .with_thread_per_item(dx.len())
        .arg_input(dy)
        .arg_output(&mut dx)
        .arg_count(dx.len())
        .arg_u32(pool.side)
        .arg_u32(pool.channels)
        .arg_u32(usize::from(accumulate == Accumulate::Yes))
        .launch_on(dy.device());
}
