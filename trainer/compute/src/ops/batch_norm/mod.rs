//! Batch normalization: each channel to mean 0 and variance 1 over all pixels of all images, then scaled
//! and shifted; over rows of channels, followed by a ReLU where the tower has one.

mod cpu;
mod gpu;
mod workspace;

use std::ops::Range;

pub use workspace::BatchNormWorkspace;

use crate::gemm::Accumulate;
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{Memory, TensorView, TensorViewMut, panic_mixed_memories};

/// Added to variances: PyTorch's default.
const EPSILON: f32 = 1e-5;

/// The share of a batch's statistics in the running ones: PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// What follows the normalization.
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
/// `x`, `y` `[rows, width]`; `weight`, `bias` and the running statistics `[width]`.
///
/// ```
/// use cnclip_compute::gemm::Accumulate;
/// use cnclip_compute::ops::batch_norm::{
///     BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
/// };
/// use cnclip_compute::params::{ParamInit, ParamLayout};
/// use cnclip_compute::tensor::Memory;
///
/// let mut layout = ParamLayout::default();
/// let mut sums = BatchNormWorkspace::default();
/// let norm = BatchNorm::declare_params(&mut layout, "bn", 1, ParamInit::Ones, &mut sums);
/// let mut params = layout.allocate_params();
/// params.init_values(0);
///
/// let mut moments = BatchNormMoments::new(&Memory::Host, 1);
/// let x = vec![1.0, 3.0];
/// let mut y = vec![0.0; 2];
/// let mut running = params.buffers.view_mut();
/// norm.compute_batch_stats(
///     params.values.view(),
///     &mut running,
///     (&x).into(),
///     &mut moments,
///     &mut sums,
/// );
/// let add = Accumulate::No;
/// let then = PostActivation::Relu;
/// norm.apply_normalization(&moments, (&x).into(), (&mut y).into(), add, then);
/// assert!(y[0] == 0.0 && (y[1] - 1.0).abs() < 1e-4);
/// ```
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Weight,
    bias: Weight,
    running_mean: Weight,
    running_variance: Weight,
    num_batches_tracked: Weight,
    width: usize,
}

/// What each channel was normalized with.
#[derive(Debug)]
pub struct BatchNormMoments(MomentsStorage);

#[derive(Debug)]
enum MomentsStorage {
    Host(cpu::HostMoments),
    Device(gpu::DeviceMoments),
}

impl BatchNormMoments {
    /// Memory for `width` channels.
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

    /// Computes the statistics of the batch, and moves the running ones towards them.
    pub fn compute_batch_stats(
        &self,
        values: TensorView<'_>,
        state: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        moments: &mut BatchNormMoments,
        sums: &mut BatchNormWorkspace,
    ) {
        match (values, state.reborrow(), x, &mut moments.0) {
            (
                TensorView::Host(values),
                TensorViewMut::Host(state),
                TensorView::Host(x),
                MomentsStorage::Host(moments),
            ) => {
                self.compute_batch_stats_host(values, state, x, moments, sums);
            }
            (
                TensorView::Device(values),
                TensorViewMut::Device(state),
                TensorView::Device(x),
                MomentsStorage::Device(moments),
            ) => {
                let affine = values.slice(self.affine_range());
                let running = state.slice(self.running_stats_range());
                gpu::compute_batch_stats(affine, running, x, moments, sums);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Uses the running statistics instead of a batch's.
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

    /// Writes `y`, or adds to it, and applies the activation to the sum.
    pub fn apply_normalization(
        &self,
        moments: &BatchNormMoments,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        accumulate: Accumulate,
        activation: PostActivation,
    ) {
        match (&moments.0, x, y) {
            (MomentsStorage::Host(moments), TensorView::Host(x), TensorViewMut::Host(y)) => {
                self.apply_normalization_host(moments, x, y, accumulate, activation);
            }
            (MomentsStorage::Device(moments), TensorView::Device(x), TensorViewMut::Device(y)) => {
                gpu::apply_normalization(moments, x, y, accumulate, activation);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Adds to the gradients of weight and bias; `dy` becomes `dx`.
    ///
    /// What was added to `y` is not known here, so the ReLU after an addition is the caller's.
    pub fn backward(
        &self,
        gradients: &mut TensorViewMut<'_>,
        x: TensorView<'_>,
        moments: &BatchNormMoments,
        sums: &mut BatchNormWorkspace,
        dy: TensorViewMut<'_>,
        activation: PostActivation,
    ) {
        match (gradients.reborrow(), x, &moments.0, dy) {
            (
                TensorViewMut::Host(gradients),
                TensorView::Host(x),
                MomentsStorage::Host(moments),
                TensorViewMut::Host(dy),
            ) => self.backward_host(gradients, x, moments, sums, dy, activation),
            (
                TensorViewMut::Device(gradients),
                TensorView::Device(x),
                MomentsStorage::Device(moments),
                TensorViewMut::Device(dy),
            ) => {
                let affine = gradients.slice(self.affine_range());
                gpu::backward(affine, x, moments, sums, dy, activation);
            }
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
