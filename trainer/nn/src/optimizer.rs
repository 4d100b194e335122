//! AdamW over the flat arrays: changes every weight that is not frozen, or none at all where a
//! gradient is not a number.

mod device_buffers;

use device_buffers::AdamWBuffers;
use rayon::prelude::*;

use cnclip_compute::params::Params;
use cnclip_compute::tensor::Tensor;

/// Values that one thread takes at a time.
const ADAMW_CHUNK_LEN: usize = 1 << 15;

/// What a run may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// How much of the mean gradient is kept in a step.
    pub beta_1: f64,
    /// How much of the mean squared gradient is kept in a step.
    pub beta_2: f64,
    /// Added to the root of the latter.
    pub epsilon: f64,
    /// Share of a weight that is taken away in a step, in units of the learning rate.
    pub weight_decay: f64,
    /// The longest gradient; a longer one is scaled to it.
    pub max_norm: Option<f64>,
}

impl AdamWSettings {
    /// What a gradient of this length is multiplied with.
    ///
    /// # Source
    /// PyTorch's `clip_grad_norm_`.
    fn clip_factor(&self, length: f64) -> f64 {
        self.max_norm
            .map_or(1.0, |most| (most / (length + 1e-6)).min(1.0))
    }
}

/// A gradient that is infinite or not a number: the first tensor that has one.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the gradient of `{0}` is not finite")]
pub struct NonFiniteGradient(pub String);

/// The optimizer's memory.
///
/// # Source
/// PyTorch's `AdamW`: decay is decoupled, both moments are corrected for their start at zero.
#[derive(Debug)]
pub struct AdamW {
    /// Mean gradients, in the layout of the parameters.
    pub exp_avg: Tensor,
    /// Mean squared gradients, in the layout of the parameters.
    pub exp_avg_sq: Tensor,
    settings: AdamWSettings,
    /// What is to be walked over, in a device's memory.
    device_buffers: Option<AdamWBuffers>,
}

/// The numbers of one step that all weights of a decay group share.
#[derive(Clone, Copy)]
struct UpdateConstants {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    /// What a gradient is multiplied with first.
    clip: f32,
    /// The learning rate, corrected for the first moment's start.
    rate: f32,
    /// One over the root of the second moment's correction.
    correction: f32,
    /// What a weight is multiplied with.
    keep: f32,
}

impl AdamW {
    /// Moments of zero.
    pub fn new(params: &Params, settings: AdamWSettings) -> Self {
        let array = || params.memory().alloc_f32(params.values.len());
        let table = AdamWBuffers::new(params);
        Self {
            exp_avg: array(),
            exp_avg_sq: array(),
            settings,
            device_buffers: table,
        }
    }

    /// Changes the weights by their gradients, and gives the length that the gradient had before it
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
        if let Some(table) = &mut self.device_buffers {
            table.refresh_frozen(params);
        }

        let length = self.gradient_norm(params)?;
        let updates =
            [false, true].map(|decayed| self.update_constants(decayed, (step, rate), length));
        let (segments, mut values, gradients) = params.split_for_update();

        if let Some(table) = &self.device_buffers {
            let moments = (
                self.exp_avg.view_mut().expect_device(),
                self.exp_avg_sq.view_mut().expect_device(),
            );

            table.adamw_step(
                values.expect_device(),
                moments,
                gradients.expect_device(),
                updates,
            );
            return Ok(length);
        }

        for segment in segments.iter().filter(|segment| !segment.frozen) {
            let update = updates[usize::from(segment.has_weight_decay())];
            let range = || segment.range.clone();
            let moments = (
                self.exp_avg.slice_mut(range()).expect_host(),
                self.exp_avg_sq.slice_mut(range()).expect_host(),
            );

            let gradients = gradients.slice(range()).expect_host();
            update.par_apply(
                values.reborrow().slice(range()).expect_host(),
                moments,
                gradients,
            );
        }

        Ok(length)
    }

    /// The Euclidean length of the whole gradient, the same for any number of threads.
    fn gradient_norm(&mut self, params: &Params) -> Result<f64, NonFiniteGradient> {
        let on_device = self
            .device_buffers
            .as_mut()
            .map(|table| table.sums_of_squares(params));
        let mut total = 0.0;
        let trained = params.segments().iter().filter(|segment| !segment.frozen);

        for (number, segment) in trained.enumerate() {
            let squares = match &on_device {
                Some(squares) => squares[number],
                None => sum_of_squares(params.gradients.slice(segment.range.clone()).expect_host()),
            };

            if !squares.is_finite() {
                return Err(NonFiniteGradient(segment.name.clone()));
            }

            total += squares;
        }

        Ok(total.sqrt())
    }

    fn update_constants(
        &self,
        decayed: bool,
        (step, rate): (u64, f64),
        length: f64,
    ) -> UpdateConstants {
        let AdamWSettings {
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            ..
        } = self.settings;

        let power = (step + 1) as f64;
        let decay = if decayed { weight_decay } else { 0.0 };
        UpdateConstants {
            beta_1: beta_1 as f32,
            beta_2: beta_2 as f32,
            epsilon: epsilon as f32,
            clip: self.settings.clip_factor(length) as f32,
            rate: (rate / (1.0 - beta_1.powf(power))) as f32,
            correction: (1.0 / (1.0 - beta_2.powf(power)).sqrt()) as f32,
            keep: (1.0 - rate * decay) as f32,
        }
    }
}

impl UpdateConstants {
    fn par_apply(
        self,
        values: &mut [f32],
        (first, second): (&mut [f32], &mut [f32]),
        gradients: &[f32],
    ) {
        let chunks = values
            .par_chunks_mut(ADAMW_CHUNK_LEN)
            .zip(first.par_chunks_mut(ADAMW_CHUNK_LEN))
            .zip(second.par_chunks_mut(ADAMW_CHUNK_LEN))
            .zip(gradients.par_chunks(ADAMW_CHUNK_LEN));

        chunks.for_each(|(((values, first), second), gradients)| {
            self.apply_update(values, (first, second), gradients);
        });
    }

    fn apply_update(
        self,
        values: &mut [f32],
        (first, second): (&mut [f32], &mut [f32]),
        gradients: &[f32],
    ) {
        let length = values.len();
        let first = &mut first[..length];
        let second = &mut second[..length];
        let gradients = &gradients[..length];

        for i in 0..length {
            let gradient = self.clip * gradients[i];
            first[i] = self.beta_1 * first[i] + (1.0 - self.beta_1) * gradient;
            second[i] = self.beta_2 * second[i] + (1.0 - self.beta_2) * gradient * gradient;
            let spread = second[i].sqrt() * self.correction + self.epsilon;
            values[i] = values[i] * self.keep - self.rate * first[i] / spread;
        }
    }
}

/// Fixed parts, so that the order of additions does not depend on the threads.
fn sum_of_squares(values: &[f32]) -> f64 {
    const PARTS: usize = 32;
    let mut sums = [0f64; PARTS];
    let part = values.len().div_ceil(PARTS).max(1 << 10);
    sums.par_iter_mut()
        .zip(values.par_chunks(part))
        .for_each(|(sum, values)| {
            let short =
                |values: &[f32]| f64::from(cnclip_compute::math::dot_product(values, values));
            *sum = values.chunks(1 << 10).map(short).sum();
        });

    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnclip_compute::params::{ParamInit, ParamLayout};

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
        let length = adamw.step(&mut params, 0, 0.01).unwrap();
        assert!(
            (length
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

            let length = adamw.step(&mut params, 0, 0.01).unwrap();
            (length, adamw.exp_avg.to_host().into_owned())
        };

        let (length, free) = first_moments(None);
        let norm = |values: &[f32]| {
            values
                .iter()
                .map(|&v| f64::from(v).powi(2))
                .sum::<f64>()
                .sqrt()
        };

        // The squares of -4 to 10 add up to 415; a moment is a tenth of its gradient.
        assert!(
            (length - 415f64.sqrt()).abs() < 1e-9 && (norm(&free) - length / 10.0).abs() < 1e-6
        );

        for limit in [0.5, 20.0] {
            let (told, clipped) = first_moments(Some(limit));
            assert_eq!(told, length);
            assert!((norm(&clipped) - limit / 10.0).abs() < 1e-6, "{limit}");
            let shrunk = free.iter().map(|v| v * (limit / (length + 1e-6)) as f32);
            assert!(
                clipped
                    .iter()
                    .zip(shrunk)
                    .all(|(a, b)| (a - b).abs() < 1e-6),
                "{limit}"
            );
        }

        assert_eq!(first_moments(Some(21.0)).1, free);
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
