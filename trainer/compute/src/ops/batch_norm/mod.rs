//! Batch normalisation: each channel to mean 0 and variance 1 over all places of all pictures, then
//! scaled and shifted; over rows of channels, with a rectifier behind it where the tower has one.

mod cpu;
pub mod gpu;
mod workspace;

use std::ops::Range;

pub use workspace::BatchNormWorkspace;

use crate::gemm::Accumulate;
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{Memory, TensorView, TensorViewMut, panic_mixed_memories};

/// PyTorch's default.
pub(crate) const EPSILON: f32 = 1e-5;

/// How much of a batch's statistics goes into the running ones: PyTorch's default.
pub(crate) const MOMENTUM: f32 = 0.1;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PostActivation {
    /// Nothing.
    Identity,
    /// Negative values become zero.
    Relu,
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
    num_batches_tracked: Weight,
    width: usize,
}

/// What each channel was normalised with.
#[derive(Debug)]
pub struct BatchNormMoments(MomentsStorage);

#[derive(Debug)]
enum MomentsStorage {
    Host(cpu::HostMoments),
    Device(gpu::DeviceMoments),
}

impl BatchNormMoments {
    /// Memory for so many channels.
    pub fn new(memory: &Memory, width: usize) -> Self {
        Self(match memory.device() {
            None => MomentsStorage::Host(cpu::HostMoments::new(width)),
            Some(device) => MomentsStorage::Device(gpu::DeviceMoments::new(device, width)),
        })
    }
}

impl BatchNorm {
    /// Declares `<name>.weight` and `<name>.bias`, and the running statistics.
    pub fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        width: usize,
        weight: ParamInit,
        sums: &mut BatchNormWorkspace,
    ) -> Self {
        sums.reserve_for(layout.memory(), width);
        let name = |part: &str| format!("{name}.{part}");
        Self {
            weight: layout.register_weight(&name("weight"), &[width], weight),
            bias: layout.register_weight(&name("bias"), &[width], ParamInit::Zeros),
            running_mean: layout.register_buffer(&name("running_mean"), &[width], ParamInit::Zeros),
            running_variance: layout.register_buffer(
                &name("running_var"),
                &[width],
                ParamInit::Ones,
            ),
            num_batches_tracked: layout.register_buffer(
                &name("num_batches_tracked"),
                &[],
                ParamInit::Zeros,
            ),
            width,
        }
    }

    /// Takes the statistics of the batch, and lets the running ones follow.
    pub fn compute_batch_stats(
        &self,
        values: TensorView<'_>,
        state: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        (moments, sums): (&mut BatchNormMoments, &mut BatchNormWorkspace),
    ) {
        match (values, state.reborrow(), x, &mut moments.0) {
            (
                TensorView::Host(values),
                TensorViewMut::Host(state),
                TensorView::Host(x),
                MomentsStorage::Host(moments),
            ) => {
                self.compute_batch_stats_host(values, state, x, (moments, sums));
            }
            (
                TensorView::Device(values),
                TensorViewMut::Device(state),
                TensorView::Device(x),
                MomentsStorage::Device(moments),
            ) => {
                let affine = values.slice(self.affine_range());
                let running = state.slice(self.running_stats_range());
                gpu::compute_batch_stats(affine, running, x, (moments, sums));
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Takes the running statistics.
    pub fn load_running_stats(
        &self,
        values: TensorView<'_>,
        state: TensorView<'_>,
        moments: &mut BatchNormMoments,
    ) {
        match (values, state, &mut moments.0) {
            (TensorView::Host(values), TensorView::Host(state), MomentsStorage::Host(moments)) => {
                self.load_running_stats_host(values, state, moments);
            }
            (
                TensorView::Device(values),
                TensorView::Device(state),
                MomentsStorage::Device(moments),
            ) => {
                let affine = values.slice(self.affine_range());
                let running = state.slice(self.running_stats_range());
                gpu::load_running_stats(affine, running, moments);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Writes `y`, or adds to it, before the rectifier.
    pub fn apply_normalization(
        &self,
        moments: &BatchNormMoments,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        onto: Accumulate,
        then: PostActivation,
    ) {
        match (&moments.0, x, y) {
            (MomentsStorage::Host(moments), TensorView::Host(x), TensorViewMut::Host(y)) => {
                self.apply_normalization_host(moments, x, y, onto, then);
            }
            (MomentsStorage::Device(moments), TensorView::Device(x), TensorViewMut::Device(y)) => {
                gpu::apply_normalization(moments, x, y, onto, then);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Adds to the gradients of the weights; `dy` becomes `dx`. What was added to `y` is not known
    /// here, so a rectifier behind an addition is the caller's.
    pub fn backward(
        &self,
        gradients: &mut TensorViewMut<'_>,
        (x, moments, sums): (TensorView<'_>, &BatchNormMoments, &mut BatchNormWorkspace),
        dy: TensorViewMut<'_>,
        then: PostActivation,
    ) {
        match (gradients.reborrow(), x, &moments.0, dy) {
            (
                TensorViewMut::Host(gradients),
                TensorView::Host(x),
                MomentsStorage::Host(moments),
                TensorViewMut::Host(dy),
            ) => self.backward_host(gradients, (x, moments, sums), dy, then),
            (
                TensorViewMut::Device(gradients),
                TensorView::Device(x),
                MomentsStorage::Device(moments),
                TensorViewMut::Device(dy),
            ) => gpu::backward(
                gradients.slice(self.affine_range()),
                (x, moments, sums),
                dy,
                then,
            ),
            _ => panic_mixed_memories(),
        }
    }

    /// Where the weight and the bias behind it lie.
    fn affine_range(&self) -> Range<usize> {
        self.weight.range().start..self.bias.range().end
    }

    /// Where the running mean, the running variance and the count of batches lie, in this order.
    fn running_stats_range(&self) -> Range<usize> {
        self.running_mean.range().start..self.num_batches_tracked.range().end
    }
}
