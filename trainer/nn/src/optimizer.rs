//! AdamW over the flat parameters: updates every weight that is not frozen, or none at all where a gradient
//! is not finite.

mod device_buffers;

use cnclip_compute::math::dot_product;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Tensor;
use rayon::prelude::*;

use device_buffers::AdamWBuffers;

/// Values that one task updates: the four arrays of a chunk fit into a core's L2 cache.
const ADAMW_CHUNK_LEN: usize = 1 << 15;

/// PyTorch's addend to the norm in `clip_grad_norm_`, against division by zero.
const CLIP_EPSILON: f64 = 1e-6;

/// Settings of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean gradient.
    pub beta_1: f64,
    /// Decay of the mean squared gradient.
    pub beta_2: f64,
    /// Added to the root of the latter.
    pub epsilon: f64,
    /// Decay of the weights in a step, in units of the learning rate.
    pub weight_decay: f64,
    /// Gradient clipping: the maximum global norm; a longer gradient is scaled to it.
    pub max_norm: Option<f64>,
}

impl AdamWSettings {
    /// What a gradient of this norm is multiplied with.
    ///
    /// # Source
    /// PyTorch's `clip_grad_norm_`.
    fn clip_factor(&self, norm: f64) -> f64 {
        self.max_norm
            .map_or(1.0, |max_norm| (max_norm / (norm + CLIP_EPSILON)).min(1.0))
    }
}

/// A gradient that is infinite or not a number: the name of the first tensor that has one.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the gradient of `{0}` is not finite")]
pub struct NonFiniteGradient(pub String);

/// The optimizer and its moments.
///
/// # Source
/// PyTorch's `AdamW`: weight decay is decoupled, both moments are corrected for their start at zero.
///
/// # Examples
/// ```
/// use cnclip_compute::params::{ParamInit, ParamLayout};
/// use cnclip_nn::optimizer::{AdamW, AdamWSettings};
///
/// let mut layout = ParamLayout::default();
/// layout.register_weight("text_projection", &[2], ParamInit::Zeros);
/// let mut params = layout.allocate_params();
/// params.gradients = vec![3.0, -4.0].into();
///
/// let settings = AdamWSettings {
///     beta_1: 0.9,
///     beta_2: 0.98,
///     epsilon: 1e-6,
///     weight_decay: 0.0,
///     max_norm: None,
/// };
///
/// let mut adamw = AdamW::new(&params, settings);
/// let gradient_norm = adamw.step(&mut params, 0, 0.1)?;
/// assert_eq!(gradient_norm, 5.0);
///
/// // The first step moves every weight by the learning rate, against its gradient.
/// let values = params.values.to_host();
/// assert!((values[0] + 0.1).abs() < 1e-6);
/// assert!((values[1] - 0.1).abs() < 1e-6);
/// # Ok::<(), cnclip_nn::optimizer::NonFiniteGradient>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    /// Mean gradients, in the layout of the parameters.
    pub exp_avg: Tensor,
    /// Mean squared gradients, in the layout of the parameters.
    pub exp_avg_sq: Tensor,
    settings: AdamWSettings,
    /// The segments that are trained, on a device.
    device_buffers: Option<AdamWBuffers>,
}

/// The constants of one step for weights that decay, or that do not.
#[derive(Clone, Copy)]
struct UpdateConstants {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    /// What a gradient is multiplied with first.
    clip: f32,
    /// The learning rate, corrected for the first moment's start at zero.
    rate: f32,
    /// One over the root of the second moment's correction.
    correction: f32,
    /// What a weight is multiplied with.
    keep: f32,
}

/// The constants of one step for both groups of weights.
#[derive(Clone, Copy)]
struct GroupConstants {
    /// Without weight decay.
    plain: UpdateConstants,
    /// With weight decay.
    decayed: UpdateConstants,
}

/// The same range of the flat arrays, in host memory.
struct UpdateSlices<'a> {
    values: &'a mut [f32],
    exp_avg: &'a mut [f32],
    exp_avg_sq: &'a mut [f32],
    gradients: &'a [f32],
}

impl AdamW {
    /// Moments of zero.
    pub fn new(params: &Params, settings: AdamWSettings) -> Self {
        let alloc_moments = || params.memory().alloc_f32(params.values.len());
        Self {
            exp_avg: alloc_moments(),
            exp_avg_sq: alloc_moments(),
            settings,
            device_buffers: AdamWBuffers::new(params),
        }
    }

    /// Updates the weights by their gradients, and returns the global norm that the gradient had before it
    /// was clipped. Steps count from 0 since the moments were zero.
    ///
    /// # Errors
    /// A gradient that is not finite; then nothing is changed.
    pub fn step(
        &mut self,
        params: &mut Params,
        step: u64,
        rate: f64,
    ) -> Result<f64, NonFiniteGradient> {
        if let Some(buffers) = &mut self.device_buffers {
            buffers.refresh_frozen(params);
        }

        // Before anything is written: a step is taken whole or not at all.
        let norm = self.gradient_norm(params)?;
        let weight_decay = self.settings.weight_decay;
        let constants = GroupConstants {
            plain: self.update_constants(step, rate, 0.0, norm),
            decayed: self.update_constants(step, rate, weight_decay, norm),
        };

        match &self.device_buffers {
            Some(buffers) => {
                let moments = (
                    self.exp_avg.view_mut().expect_device(),
                    self.exp_avg_sq.view_mut().expect_device(),
                );

                let (_, values, gradients) = params.split_for_update();
                let values = values.expect_device();
                let gradients = gradients.expect_device();
                buffers.adamw_step(values, moments.0, moments.1, gradients, constants);
            }
            None => self.step_on_host(params, constants),
        }

        Ok(norm)
    }

    fn step_on_host(&mut self, params: &mut Params, constants: GroupConstants) {
        let (segments, mut values, gradients) = params.split_for_update();
        // Segment by segment, because only a segment knows whether it decays; each in parallel.
        for segment in segments.iter().filter(|segment| !segment.frozen) {
            let constants = if segment.has_weight_decay() {
                constants.decayed
            } else {
                constants.plain
            };

            let range = || segment.range.clone();
            constants.par_apply(UpdateSlices {
                values: values.reborrow().slice(range()).expect_host(),
                exp_avg: self.exp_avg.slice_mut(range()).expect_host(),
                exp_avg_sq: self.exp_avg_sq.slice_mut(range()).expect_host(),
                gradients: gradients.slice(range()).expect_host(),
            });
        }
    }

    /// The global norm of the gradients of all weights that are trained.
    ///
    /// # Guarantees
    /// The same for any number of threads.
    fn gradient_norm(&mut self, params: &Params) -> Result<f64, NonFiniteGradient> {
        let device_sums = self
            .device_buffers
            .as_mut()
            .map(|buffers| buffers.sums_of_squares(params));

        // In fp64, tensor after tensor: with 200 million weights fp32 would drop small ones. Any value that is
        // not finite makes its tensor's sum so, which names the tensor without another pass.
        let mut total = 0.0;
        let trained = params.segments().iter().filter(|segment| !segment.frozen);
        for (index, segment) in trained.enumerate() {
            let sum = match &device_sums {
                Some(sums) => sums[index],
                None => sum_of_squares(params.gradients.slice(segment.range.clone()).expect_host()),
            };

            if !sum.is_finite() {
                return Err(NonFiniteGradient(segment.name.clone()));
            }

            total += sum;
        }

        Ok(total.sqrt())
    }

    fn update_constants(
        &self,
        step: u64,
        rate: f64,
        weight_decay: f64,
        norm: f64,
    ) -> UpdateConstants {
        let AdamWSettings {
            beta_1,
            beta_2,
            epsilon,
            ..
        } = self.settings;

        // In fp64: 1 − βⁿ of a β near 1 has few digits in fp32.
        let power = (step + 1) as f64;
        let first_correction = 1.0 - beta_1.powf(power);
        let second_correction = 1.0 - beta_2.powf(power);
        UpdateConstants {
            beta_1: beta_1 as f32,
            beta_2: beta_2 as f32,
            epsilon: epsilon as f32,
            clip: self.settings.clip_factor(norm) as f32,
            rate: (rate / first_correction) as f32,
            correction: (1.0 / second_correction.sqrt()) as f32,
            keep: (1.0 - rate * weight_decay) as f32,
        }
    }
}

impl UpdateConstants {
    fn par_apply(self, slices: UpdateSlices<'_>) {
        let UpdateSlices {
            values,
            exp_avg,
            exp_avg_sq,
            gradients,
        } = slices;

        values
            .par_chunks_mut(ADAMW_CHUNK_LEN)
            .zip(exp_avg.par_chunks_mut(ADAMW_CHUNK_LEN))
            .zip(exp_avg_sq.par_chunks_mut(ADAMW_CHUNK_LEN))
            .zip(gradients.par_chunks(ADAMW_CHUNK_LEN))
            .for_each(|(((values, exp_avg), exp_avg_sq), gradients)| {
                self.apply_update(UpdateSlices {
                    values,
                    exp_avg,
                    exp_avg_sq,
                    gradients,
                });
            });
    }

    fn apply_update(self, slices: UpdateSlices<'_>) {
        // Equal lengths in sight of the compiler: no bounds checks, and vector instructions.
        let len = slices.values.len();
        let values = slices.values;
        let exp_avg = &mut slices.exp_avg[..len];
        let exp_avg_sq = &mut slices.exp_avg_sq[..len];
        let gradients = &slices.gradients[..len];

        for i in 0..len {
            let gradient = self.clip * gradients[i];
            exp_avg[i] = self.beta_1 * exp_avg[i] + (1.0 - self.beta_1) * gradient;
            exp_avg_sq[i] = self.beta_2 * exp_avg_sq[i] + (1.0 - self.beta_2) * gradient * gradient;
            let denominator = exp_avg_sq[i].sqrt() * self.correction + self.epsilon;
            values[i] = values[i] * self.keep - self.rate * exp_avg[i] / denominator;
        }
    }
}

/// Short sums in fp32, which vector instructions add up, and long ones in fp64.
///
/// # Guarantees
/// The same for any number of threads: the parts depend on the length alone.
fn sum_of_squares(values: &[f32]) -> f64 {
    const PARTS: usize = 32;
    const SHORT_LEN: usize = 1 << 10;
    let short_sum = |values: &[f32]| f64::from(dot_product(values, values));

    let mut sums = [0f64; PARTS];
    let part_len = values.len().div_ceil(PARTS).max(SHORT_LEN);
    sums.par_iter_mut()
        .zip(values.par_chunks(part_len))
        .for_each(|(sum, values)| *sum = values.chunks(SHORT_LEN).map(short_sum).sum());

    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use cnclip_compute::params::{ParamInit, ParamLayout};

    use super::*;

    const SETTINGS: AdamWSettings = AdamWSettings {
        beta_1: 0.9,
        beta_2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.1,
        max_norm: None,
    };

    fn params() -> Params {
        let mut layout = ParamLayout::default();
        for name in ["visual.proj", "text_projection", "logit_scale"] {
            layout.register_weight(name, &[5], ParamInit::Ones);
        }

        let mut params = layout.allocate_params();
        params.init_values(0);
        params.gradients = (0..15).map(|i| i as f32 - 4.0).collect::<Vec<_>>().into();
        params
    }

    #[test]
    fn a_first_step_moves_every_weight_by_the_rate_against_its_gradient() {
        let mut params = params();
        let mut adamw = AdamW::new(&params, SETTINGS);
        let norm = adamw.step(&mut params, 0, 0.01).unwrap();
        assert!(
            (norm
                - params
                    .gradients
                    .to_host()
                    .iter()
                    .map(|g| f64::from(g * g))
                    .sum::<f64>()
                    .sqrt())
            .abs()
                < 1e-9
        );

        for (i, (value, gradient)) in params
            .values
            .to_host()
            .iter()
            .zip(&*params.gradients.to_host())
            .enumerate()
        {
            let decayed = if i < 10 { 1.0 - 0.001 } else { 1.0 };
            let sign = if *gradient == 0.0 {
                0.0
            } else {
                gradient.signum()
            };

            assert!(
                (value - (decayed - 0.01 * sign)).abs() < 1e-6,
                "{i}: {value}"
            );
        }
    }

    #[test]
    fn frozen_weights_and_their_moments_are_left_alone() {
        let mut params = params();
        params.freeze_matching(|name| name.starts_with("visual."));
        let mut adamw = AdamW::new(&params, SETTINGS);
        adamw.step(&mut params, 0, 0.01).unwrap();
        assert_eq!(params.values.to_host()[..5], [1.0; 5]);
        assert_eq!(
            (
                &adamw.exp_avg.to_host()[..5],
                &adamw.exp_avg_sq.to_host()[..5]
            ),
            (&[0.0; 5][..], &[0.0; 5][..])
        );

        assert!(
            params.values.to_host()[5..]
                .iter()
                .all(|&value| value != 1.0)
        );
    }

    #[test]
    fn a_gradient_longer_than_the_limit_is_scaled_to_it_and_a_shorter_one_is_not() {
        let first_moments = |max_norm| {
            let mut params = params();
            let mut adamw = AdamW::new(
                &params,
                AdamWSettings {
                    max_norm,
                    ..SETTINGS
                },
            );

            let norm = adamw.step(&mut params, 0, 0.01).unwrap();
            (norm, adamw.exp_avg.to_host().into_owned())
        };

        let (gradient_norm, unclipped) = first_moments(None);
        let norm = |values: &[f32]| {
            values
                .iter()
                .map(|&v| f64::from(v).powi(2))
                .sum::<f64>()
                .sqrt()
        };

        // The squares of -4 to 10 add up to 415; a moment is a tenth of its gradient.
        assert!(
            (gradient_norm - 415f64.sqrt()).abs() < 1e-9
                && (norm(&unclipped) - gradient_norm / 10.0).abs() < 1e-6
        );

        for limit in [0.5, 20.0] {
            let (found_norm, clipped) = first_moments(Some(limit));
            assert_eq!(found_norm, gradient_norm);
            assert!((norm(&clipped) - limit / 10.0).abs() < 1e-6, "{limit}");
            let shrunk = unclipped
                .iter()
                .map(|v| v * (limit / (gradient_norm + 1e-6)) as f32);
            assert!(
                clipped
                    .iter()
                    .zip(shrunk)
                    .all(|(a, b)| (a - b).abs() < 1e-6),
                "{limit}"
            );
        }

        assert_eq!(first_moments(Some(21.0)).1, unclipped);
    }

    #[test]
    fn a_gradient_that_is_not_a_number_is_named_and_nothing_moves() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut params = params();
            params
                .gradients
                .update_on_host(|gradients| gradients[7] = bad);
            let mut adamw = AdamW::new(&params, SETTINGS);
            let error = adamw.step(&mut params, 3, 0.01).unwrap_err();
            assert_eq!(error, NonFiniteGradient("text_projection".into()));
            assert_eq!(
                (
                    &params.values.to_host()[..],
                    adamw.exp_avg.to_host().iter().sum::<f32>()
                ),
                (&[1.0; 15][..], 0.0)
            );
        }
    }

    #[test]
    fn the_length_of_a_gradient_counts_every_value_once() {
        for length in [1, 1023, 1024, 33_000, 100_001] {
            assert_eq!(sum_of_squares(&vec![2.0; length]), 4.0 * length as f64);
        }
    }
}
