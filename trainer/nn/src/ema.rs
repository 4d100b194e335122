//! The exponential moving average (EMA) of the trained weights. Decides neither when it is used nor where it
//! is stored.

use std::ops::Range;

use cnclip_compute::ops::ema;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Tensor;

/// The average over the steps so far, in which older steps count exponentially less.
///
/// # Examples
/// ```
/// use cnclip_compute::params::{ParamInit, ParamLayout};
/// use cnclip_nn::ema::WeightEma;
///
/// let mut layout = ParamLayout::default();
/// layout.register_weight("text_projection", &[1], ParamInit::Zeros);
/// let mut params = layout.allocate_params();
/// let mut ema = WeightEma::new(&params, 0.9999);
///
/// // A training step moves the weight; at first the average follows quickly.
/// params.values = vec![1.0].into();
/// ema.update_average(&params, 0);
/// assert!((ema.values.to_host()[0] - 0.9).abs() < 1e-6);
///
/// // Evaluation swaps it in, and out again.
/// ema.swap_with_params(&mut params);
/// assert!(params.values.to_host()[0] < 1.0);
/// ema.swap_with_params(&mut params);
/// assert_eq!(params.values.to_host()[0], 1.0);
/// ```
#[derive(Debug)]
pub struct WeightEma {
    /// In the layout of the parameters.
    pub values: Tensor,
    /// The average of the running statistics of batch normalization: those of the weights as they train are of other
    /// activations than the averaged weights make.
    pub buffers: Tensor,
    /// Buffers that count and have no average.
    counters: Vec<Range<usize>>,
    decay: f64,
}

impl WeightEma {
    /// Starts with the weights as they are. `decay` is the share of the old average in each step.
    pub fn new(params: &Params, decay: f64) -> Self {
        let counters = params
            .buffer_segments()
            .iter()
            .filter(|segment| segment.name.ends_with("num_batches_tracked"))
            .map(|segment| segment.range.clone())
            .collect();

        let mut ema = Self {
            values: params.memory().alloc_f32(params.values.len()),
            buffers: params.memory().alloc_f32(params.buffers.len()),
            counters,
            decay,
        };

        ema.restart_from(params);
        ema
    }

    /// Takes the parameters as they are for their average.
    pub fn restart_from(&mut self, params: &Params) {
        self.values.copy_from(params.values.view());
        self.buffers.copy_from(params.buffers.view());
    }

    /// Updates the average with the weights after a step; steps count from 0. In the first steps the decay
    /// is smaller, so that the average forgets the initial weights.
    ///
    /// # Source
    /// TensorFlow's `ExponentialMovingAverage` with `num_updates`; timm's `ModelEmaV2` averages the running statistics
    /// too.
    pub fn update_average(&mut self, params: &Params, step: u64) {
        // 0.1 at first, and 0.99 after 890 steps.
        let warmup_decay = (1 + step) as f64 / (10 + step) as f64;
        let decay = self.decay.min(warmup_decay) as f32;
        ema::update(self.values.view_mut(), params.values.view(), decay);

        // A ViT has no running statistics, and a device launches no kernel over nothing.
        if !self.buffers.is_empty() {
            ema::update(self.buffers.view_mut(), params.buffers.view(), decay);
        }
    }

    /// Exchanges the averages with the weights and the running statistics of the parameters.
    pub fn swap_with_params(&mut self, params: &mut Params) {
        ema::swap(&mut self.values, &mut params.values);
        if self.buffers.is_empty() {
            return;
        }

        for range in &self.counters {
            let counter = params.buffers.slice(range.clone());
            self.buffers.slice_mut(range.clone()).copy_from(counter);
        }

        ema::swap(&mut self.buffers, &mut params.buffers);
    }
}

#[cfg(test)]
mod tests {
    use cnclip_compute::params::{ParamInit, ParamLayout};

    use super::*;

    fn params(values: Vec<f32>) -> Params {
        let mut layout = ParamLayout::default();
        layout.register_weight("text_projection", &[values.len()], ParamInit::Zeros);
        let mut params = layout.allocate_params();
        params.values = values.into();

        params
    }

    #[test]
    fn each_step_counts_for_what_is_not_kept_of_the_old_and_more_at_the_start() {
        let mut ema = WeightEma::new(&params(vec![1.0, 5.0]), 0.75);
        let mut right = [1.0, 5.0];
        for (step, keep) in [(0, 0.1), (1, 2.0 / 11.0), (50, 0.75), (51, 0.75)] {
            let values = [step as f32 + 2.0, 5.0];
            ema.update_average(&params(values.to_vec()), step);
            right[0] = keep * right[0] + (1.0 - keep) * f64::from(values[0]);
            assert!(
                (f64::from(ema.values.to_host()[0]) - right[0]).abs() < 1e-5,
                "{step}: {right:?}"
            );
        }

        assert_eq!(
            ema.values.to_host()[1],
            5.0,
            "what does not move is its own average"
        );
    }

    #[test]
    fn a_second_swap_undoes_the_first() {
        let mut ema = WeightEma::new(&params(vec![1.0]), 0.5);
        let mut training = params(vec![2.0]);
        ema.swap_with_params(&mut training);
        assert_eq!(
            (ema.values.to_host()[0], training.values.to_host()[0]),
            (2.0, 1.0)
        );

        ema.swap_with_params(&mut training);
        assert_eq!(
            (ema.values.to_host()[0], training.values.to_host()[0]),
            (1.0, 2.0)
        );
    }

    #[test]
    fn running_statistics_are_averaged_and_counters_are_not() {
        let mut layout = ParamLayout::default();
        layout.register_weight("visual.bn1.weight", &[1], ParamInit::Ones);
        for name in ["running_mean", "num_batches_tracked"] {
            layout.register_buffer(&format!("visual.bn1.{name}"), &[1], ParamInit::Zeros);
        }

        let mut params = layout.allocate_params();
        let mut ema = WeightEma::new(&params, 0.75);
        params.buffers = vec![4.0, 100.0].into();
        ema.update_average(&params, 1000);

        ema.swap_with_params(&mut params);
        assert_eq!(*params.buffers.to_host(), [1.0, 100.0]);
        ema.swap_with_params(&mut params);
        assert_eq!(*params.buffers.to_host(), [4.0, 100.0]);
    }
}
