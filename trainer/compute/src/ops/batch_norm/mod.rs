//! Batch normalisation: each channel to mean 0 and variance 1 over all places of all pictures, then
//! scaled and shifted; over rows of channels, with a rectifier behind it where the tower has one.

mod cpu;
pub mod gpu;
mod sums;

use std::ops::Range;

pub use sums::Sums;

use crate::gemm::Onto;
use crate::params::{Init, Layout, Weight};
use crate::tensor::{Memory, View, ViewMut, mixed};

/// PyTorch's default.
pub(crate) const EPSILON: f32 = 1e-5;

/// How much of a batch's statistics goes into the running ones: PyTorch's default.
pub(crate) const MOMENTUM: f32 = 0.1;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Negative values become zero.
    Rectify,
}

/// `y = (x - mean) / sqrt(variance + 1e-5) · weight + bias`, channel by channel.
///
/// # Shapes
/// `x`, `y` [rows, width]; `weight`, `bias` and the running statistics [width].
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Weight,
    bias: Weight,
    running_mean: Weight,
    running_variance: Weight,
    batches: Weight,
    width: usize,
}

/// What each channel was normalised with.
#[derive(Debug)]
pub struct Moments(Kept);

#[derive(Debug)]
enum Kept {
    Host(cpu::Moments),
    Device(gpu::Moments),
}

impl Moments {
    /// Memory for so many channels.
    pub fn new(memory: &Memory, width: usize) -> Self {
        Self(match memory.device() {
            None => Kept::Host(cpu::Moments::new(width)),
            Some(device) => Kept::Device(gpu::Moments::new(device, width)),
        })
    }
}

impl BatchNorm {
    /// Declares `<name>.weight` and `<name>.bias`, and the running statistics.
    pub fn declare(
        layout: &mut Layout,
        name: &str,
        width: usize,
        weight: Init,
        sums: &mut Sums,
    ) -> Self {
        sums.fit(layout.memory(), width);
        let name = |part: &str| format!("{name}.{part}");
        Self {
            weight: layout.weight(&name("weight"), &[width], weight),
            bias: layout.weight(&name("bias"), &[width], Init::Zeros),
            running_mean: layout.state(&name("running_mean"), &[width], Init::Zeros),
            running_variance: layout.state(&name("running_var"), &[width], Init::Ones),
            batches: layout.state(&name("num_batches_tracked"), &[], Init::Zeros),
            width,
        }
    }

    /// Takes the statistics of the batch, and lets the running ones follow.
    pub fn measure(
        &self,
        values: View<'_>,
        state: &mut ViewMut<'_>,
        x: View<'_>,
        (moments, sums): (&mut Moments, &mut Sums),
    ) {
        match (values, state.reborrow(), x, &mut moments.0) {
            (View::Host(values), ViewMut::Host(state), View::Host(x), Kept::Host(moments)) => {
                self.measure_host(values, state, x, (moments, sums));
            }
            (
                View::Device(values),
                ViewMut::Device(state),
                View::Device(x),
                Kept::Device(moments),
            ) => {
                let affine = values.part(self.affine());
                let running = state.part(self.running());
                gpu::measure(affine, running, x, (moments, sums));
            }
            _ => mixed(),
        }
    }

    /// Takes the running statistics.
    pub fn recall(&self, values: View<'_>, state: View<'_>, moments: &mut Moments) {
        match (values, state, &mut moments.0) {
            (View::Host(values), View::Host(state), Kept::Host(moments)) => {
                self.recall_host(values, state, moments);
            }
            (View::Device(values), View::Device(state), Kept::Device(moments)) => {
                let affine = values.part(self.affine());
                let running = state.part(self.running());
                gpu::recall(affine, running, moments);
            }
            _ => mixed(),
        }
    }

    /// Writes `y`, or adds to it, before the rectifier.
    pub fn apply(&self, moments: &Moments, x: View<'_>, y: ViewMut<'_>, onto: Onto, then: Then) {
        match (&moments.0, x, y) {
            (Kept::Host(moments), View::Host(x), ViewMut::Host(y)) => {
                self.apply_host(moments, x, y, onto, then);
            }
            (Kept::Device(moments), View::Device(x), ViewMut::Device(y)) => {
                gpu::apply(moments, x, y, onto, then);
            }
            _ => mixed(),
        }
    }

    /// Adds to the gradients of the weights; `dy` becomes `dx`. What was added to `y` is not known
    /// here, so a rectifier behind an addition is the caller's.
    pub fn backward(
        &self,
        gradients: &mut ViewMut<'_>,
        (x, moments, sums): (View<'_>, &Moments, &mut Sums),
        dy: ViewMut<'_>,
        then: Then,
    ) {
        match (gradients.reborrow(), x, &moments.0, dy) {
            (ViewMut::Host(gradients), View::Host(x), Kept::Host(moments), ViewMut::Host(dy)) => {
                self.backward_host(gradients, (x, moments, sums), dy, then)
            }
            (
                ViewMut::Device(gradients),
                View::Device(x),
                Kept::Device(moments),
                ViewMut::Device(dy),
            ) => gpu::backward(gradients.part(self.affine()), (x, moments, sums), dy, then),
            _ => mixed(),
        }
    }

    /// Where the weight and the bias behind it lie.
    fn affine(&self) -> Range<usize> {
        self.weight.range().start..self.bias.range().end
    }

    /// Where the running mean, the running variance and the count of batches lie, in this order.
    fn running(&self) -> Range<usize> {
        self.running_mean.range().start..self.batches.range().end
    }
}
