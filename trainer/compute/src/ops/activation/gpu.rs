//! The activations of the feed-forward layers.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::activation::Activation;

/// Numbers that one thread takes.
const VALUES_PER_THREAD: usize = 8;

/// `y = f(x)`.
pub fn forward(activation: Activation, x: DeviceView<'_>, y: &mut DeviceViewMut<'_>) {
    launch_activation(kernel_name(activation, "forward"), x, y);
}

/// `dy` becomes `dx`: it is multiplied by the slope at `x`.
pub fn backward(activation: Activation, x: DeviceView<'_>, dy: &mut DeviceViewMut<'_>) {
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
    let launch = KernelLaunch::for_dtype(&name, x.dtype())
        .with_thread_per_item(len.div_ceil(VALUES_PER_THREAD));
    launch
        .arg_input(x)
        .arg_output(y)
        .arg_u32(len)
        .launch_on(device);
}
