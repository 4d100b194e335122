//! The mean of squares on a device: a thread for each number that is written.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::average_pool::AveragePool;

/// Writes `y`.
pub(crate) fn forward(pool: AveragePool, x: DeviceView<'_>, mut y: DeviceViewMut<'_>) {
    let launch = KernelLaunch::for_dtype("pool_forward", x.dtype())
        .with_thread_per_item(y.len())
        .arg_input(x)
        .arg_output(&mut y);

    launch
        .arg_u32(y.len())
        .arg_u32(pool.side)
        .arg_u32(pool.channels)
        .launch_on(x.device());
}

/// Writes a quarter of `dy` to each pixel of its square in `dx`, or adds it.
pub(crate) fn backward(
    pool: AveragePool,
    dy: DeviceView<'_>,
    mut dx: DeviceViewMut<'_>,
    onto: Accumulate,
) {
    let launch = KernelLaunch::for_dtype("pool_backward", dy.dtype())
        .with_thread_per_item(dx.len())
        .arg_input(dy)
        .arg_output(&mut dx);

    let launch = launch
        .arg_u32(dx.len())
        .arg_u32(pool.side)
        .arg_u32(pool.channels);
    launch
        .arg_u32(usize::from(onto == Accumulate::Yes))
        .launch_on(dy.device());
}
