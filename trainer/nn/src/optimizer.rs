//! AdamW over the flat parameters: updates every weight that is not frozen, or none at all where a gradient
//! is not finite.

use cnclip_compute::ops::adamw::{AdamWArrays, AdamWConstants, AdamWRanges, UpdateRange};
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::Tensor;

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
    /// Which segments were frozen when `trained` was made.
    frozen: Vec<bool>,
    /// The segments that are trained.
    trained: AdamWRanges,
}

impl AdamW {
    /// Moments of zero.
    pub fn new(params: &Params, settings: AdamWSettings) -> Self {
        let alloc_moments = || params.memory().alloc_f32(params.values.len());
        Self {
            exp_avg: alloc_moments(),
            exp_avg_sq: alloc_moments(),
            settings,
            frozen: frozen_segments(params).collect(),
            trained: trained_ranges(params),
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
        self.refresh_frozen(params);
        // Before anything is written: a step is taken whole or not at all.
        let norm = self.gradient_norm(params)?;
        let constants = self.step_constants(step, rate, norm);
        let (_, values, gradients) = params.split_for_update();
        let arrays = AdamWArrays {
            values,
            exp_avg: self.exp_avg.view_mut(),
            exp_avg_sq: self.exp_avg_sq.view_mut(),
            gradients,
        };

        self.trained.step(arrays, constants);
        Ok(norm)
    }

    /// Follows segments that were frozen or thawed since the last step.
    fn refresh_frozen(&mut self, params: &Params) {
        if frozen_segments(params).ne(self.frozen.iter().copied()) {
            self.frozen = frozen_segments(params).collect();
            self.trained = trained_ranges(params);
        }
    }

    /// The global norm of the gradients of all weights that are trained.
    ///
    /// # Guarantees
    /// The same for any number of threads.
    fn gradient_norm(&mut self, params: &Params) -> Result<f64, NonFiniteGradient> {
        // In fp64, tensor after tensor: with 200 million weights fp32 would drop small ones. Any value that is
        // not finite makes its tensor's sum so, which names the tensor without another pass.
        let sums = self.trained.sums_of_squares(params.gradients.view());
        let trained = params.segments().iter().filter(|segment| !segment.frozen);
        let mut total = 0.0;
        for (segment, sum) in trained.zip(sums) {
            if !sum.is_finite() {
                return Err(NonFiniteGradient(segment.name.clone()));
            }

            total += sum;
        }

        Ok(total.sqrt())
    }

    fn step_constants(&self, step: u64, rate: f64, norm: f64) -> AdamWConstants {
        let AdamWSettings {
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            ..
        } = self.settings;

        // In fp64: 1 − βⁿ of a β near 1 has few digits in fp32.
        let power = (step + 1) as f64;
        let first_correction = 1.0 - beta_1.powf(power);
        let second_correction = 1.0 - beta_2.powf(power);
        AdamWConstants {
            beta_1: beta_1 as f32,
            beta_2: beta_2 as f32,
            epsilon: epsilon as f32,
            clip: self.settings.clip_factor(norm) as f32,
            rate: (rate / first_correction) as f32,
            correction: (1.0 / second_correction.sqrt()) as f32,
            keep: 1.0,
            keep_decayed: (1.0 - rate * weight_decay) as f32,
        }
    }
}

/// Whether each segment is frozen.
fn frozen_segments(params: &Params) -> impl Iterator<Item = bool> {
    params.segments().iter().map(|segment| segment.frozen)
}

/// The segments that are trained.
fn trained_ranges(params: &Params) -> AdamWRanges {
    let trained = params.segments().iter().filter(|segment| !segment.frozen);
    let range = |segment: &Segment| UpdateRange {
        range: segment.range.clone(),
        decays: segment.has_weight_decay(),
    };

    AdamWRanges::new(params.memory(), trained.map(range).collect())
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
}
