//! The learning rate schedule: linear warm-up, then half a cosine down to zero. Pure.

/// Learning rates of all steps of a stage.
///
/// # Source
/// The reference's `cosine_lr`.
///
/// # Examples
/// ```
/// use cnclip_nn::schedule::LearningRateSchedule;
///
/// let schedule = LearningRateSchedule {
///     peak: 5e-5,
///     warmup_steps: 10,
///     total_steps: 110,
/// };
///
/// assert_eq!(schedule.learning_rate(9), 5e-5);
/// assert!((schedule.learning_rate(60) - 2.5e-5).abs() < 1e-12);
/// assert_eq!(schedule.learning_rate(110), 0.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRateSchedule {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole stage, warm-up included.
    pub total_steps: u64,
}

impl LearningRateSchedule {
    /// The rate of a step, the first of which is step 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        // From 1, not from 0: a first step with a rate of zero would be lost.
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }

        // At least 1, for a stage of warm-up alone; and no further than the end, where the cosine would rise
        // again.
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = (step - self.warmup_steps).min(length) as f64 / length as f64;
        0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_climbs_to_its_peak_and_falls_to_zero() {
        let schedule = LearningRateSchedule {
            peak: 2.0,
            warmup_steps: 4,
            total_steps: 12,
        };

        let table = [
            (0, 0.5),
            (3, 2.0),
            (4, 2.0),
            (6, 1.0 + 0.5f64.sqrt()),
            (8, 1.0),
            (12, 0.0),
            (99, 0.0),
        ];

        for (step, rate) in table {
            assert!(
                (schedule.learning_rate(step) - rate).abs() < 1e-12,
                "step {step}"
            );
        }
    }

    #[test]
    fn a_stage_of_warm_up_alone_never_divides_by_zero() {
        let schedule = LearningRateSchedule {
            peak: 1.0,
            warmup_steps: 2,
            total_steps: 2,
        };

        assert_eq!(
            (0..3)
                .map(|step| schedule.learning_rate(step))
                .collect::<Vec<_>>(),
            [0.5, 1.0, 1.0]
        );

        let schedule = LearningRateSchedule {
            peak: 1.0,
            warmup_steps: 0,
            total_steps: 2,
        };

        assert_eq!(schedule.learning_rate(0), 1.0);
    }
}
