//! A running average of the trained weights, beside the weights that train. Decides neither when it is
//! used nor where it is kept.

use rayon::prelude::*;

use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut, panic_mixed_memories};

/// Values that one thread takes at a time.
const EMA_CHUNK_LEN: usize = 1 << 15;

/// The average over the steps so far, in which older steps count less and less.
#[derive(Debug)]
pub struct WeightEma {
    /// In the layout of the parameters.
    pub values: Tensor,
    decay: f64,
}

impl WeightEma {
    /// Begins with the weights as they are. `decay` is the share of the old in each step.
    pub fn new(params: &Params, decay: f64) -> Self {
        let mut values = params.memory().alloc_f32(params.values.len());
        values.copy_from(params.values.view());
        Self { values, decay }
    }

    /// Takes in the weights after a step; steps count from 0. While there are few of them, the old has a
    /// smaller share: the average forgets where training began.
    ///
    /// # Source
    /// TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    pub fn update_average(&mut self, params: &Params, step: u64) {
        let keep = self.decay.min((1 + step) as f64 / (10 + step) as f64) as f32;
        match (self.values.view_mut(), params.values.view()) {
            (TensorViewMut::Host(averages), TensorView::Host(values)) => {
                blend_values(averages, values, keep)
            }
            (TensorViewMut::Device(mut averages), TensorView::Device(values)) => {
                cnclip_compute::ops::ema::gpu::ema_update(&mut averages, values, 1.0 - keep);
            }
            _ => panic_mixed_memories(),
        }
    }

    /// Gives the parameters the average and takes their values, or the other way round.
    pub fn swap_with_params(&mut self, params: &mut Params) {
        match (&mut self.values, &mut params.values) {
            (Tensor::Host(averages), Tensor::Host(values)) => std::mem::swap(averages, values),
            (Tensor::Device(averages), Tensor::Device(values)) => {
                // The weights are kept rounded, too, in memory of their own.
                cnclip_compute::ops::ema::gpu::swap_values(
                    &mut averages.as_view_mut(),
                    &mut values.as_view_mut(),
                );
            }
            _ => panic_mixed_memories(),
        }
    }
}

fn blend_values(averages: &mut [f32], values: &[f32], keep: f32) {
    let chunks = averages
        .par_chunks_mut(EMA_CHUNK_LEN)
        .zip(values.par_chunks(EMA_CHUNK_LEN));
    chunks.for_each(|(averages, values)| {
        for (average, value) in averages.iter_mut().zip(values) {
            *average += (1.0 - keep) * (value - *average);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnclip_compute::params::{ParamInit, ParamLayout};

    fn params(values: Vec<f32>) -> Params {
        let mut layout = ParamLayout::default();
        layout.register_weight("text_projection", &[values.len()], ParamInit::Zeros);
        let mut params = layout.allocate_params();
        params.values = values.into();

        params
    }

    #[test]
    fn each_step_counts_for_what_is_not_kept_of_the_old_and_more_at_the_start() {
        let mut average = WeightEma::new(&params(vec![1.0, 5.0]), 0.75);
        let mut right = [1.0, 5.0];
        for (step, keep) in [(0, 0.1), (1, 2.0 / 11.0), (50, 0.75), (51, 0.75)] {
            let values = [step as f32 + 2.0, 5.0];
            average.update_average(&params(values.to_vec()), step);
            right[0] = keep * right[0] + (1.0 - keep) * f64::from(values[0]);
            assert!(
                (f64::from(average.values.to_host()[0]) - right[0]).abs() < 1e-5,
                "{step}: {right:?}"
            );
        }

        assert_eq!(
            average.values.to_host()[1],
            5.0,
            "what does not move is its own average"
        );
    }

    #[test]
    fn a_second_swap_undoes_the_first() {
        let mut average = WeightEma::new(&params(vec![1.0]), 0.5);
        let mut training = params(vec![2.0]);
        average.swap_with_params(&mut training);
        assert_eq!(
            (average.values.to_host()[0], training.values.to_host()[0]),
            (2.0, 1.0)
        );

        average.swap_with_params(&mut training);
        assert_eq!(
            (average.values.to_host()[0], training.values.to_host()[0]),
            (1.0, 2.0)
        );
    }
}
