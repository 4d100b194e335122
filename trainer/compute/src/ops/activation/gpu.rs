//! GELU and QuickGELU on a device: eight elements for each thread.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::activation::Activation;

/// Elements that one thread takes: one load of 16 bytes in bfloat16, two in fp32.
const VALUES_PER_THREAD: usize = 8;

/// `y = f(x)`.
pub(super) fn forward(activation: Activation, x: DeviceView<'_>, y: &mut DeviceViewMut<'_>) {
    launch_activation(kernel_name(activation, "forward"), x, y);
}

/// `dy` becomes `dx`: it is multiplied by the derivative at `x`.
pub(super) fn backward(activation: Activation, x: DeviceView<'_>, dy: &mut DeviceViewMut<'_>) {
    launch_activation(kernel_name(activation, "backward"), x, dy);
}

fn kernel_name(activation: Activation, pass: &str) -> String {
    let name = if activation == Activation::Gelu {
        "gelu"
    } else {
        "quick_gelu"
    };

    format!("{name}_{pass}")
}

fn launch_activation(name: String, x: DeviceView<'_>, y: &mut DeviceViewMut<'_>) {
    let len = x.len();
    let device = y.device();
    KernelLaunch::for_dtype(&name, x.dtype())
        .with_thread_per_item(len.div_ceil(VALUES_PER_THREAD))
        .arg_input(x)
        .arg_output(y)
        .arg_count(len)
        .launch_on(device);
}
