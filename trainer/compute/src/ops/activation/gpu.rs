//! The activations of the feed-forward layers.

use crate::device::{Launch, Span, SpanMut};
use crate::ops::activation::Activation;

/// Numbers that one thread takes.
const OCTET: usize = 8;

/// `y = f(x)`.
pub fn forward(activation: Activation, x: Span<'_>, y: &mut SpanMut<'_>) {
    run(name(activation, "forward"), x, y);
}

/// `dy` becomes `dx`: it is multiplied by the slope at `x`.
pub fn backward(activation: Activation, x: Span<'_>, dy: &mut SpanMut<'_>) {
    run(name(activation, "backward"), x, dy);
}

fn name(activation: Activation, pass: &str) -> String {
    let name = if activation == Activation::Gelu {
        "gelu"
    } else {
        "quick_gelu"
    };

    format!("{name}_{pass}")
}

fn run(name: String, x: Span<'_>, y: &mut SpanMut<'_>) {
    let len = x.len();
    let device = y.device();
    let launch = Launch::typed(&name, x.format()).over(len.div_ceil(OCTET));
    launch.read(x).write(y).whole(len).run(device);
}
