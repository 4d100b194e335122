//! What is added up between two reports. Pure: the time is an argument.

use std::time::Duration;

/// Sums since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Meter {
    steps: u64,
    samples: u64,
    losses: StepLosses,
    elapsed: Duration,
}

/// What a step lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepLosses {
    /// What the step made smaller, in nats.
    pub(super) total: f64,
    /// The distance from the teacher's features that is in it, before it was weighted.
    pub(super) distillation: Option<f64>,
}

impl Meter {
    /// Adds a step.
    pub(super) fn add_step(&mut self, pairs: u64, losses: StepLosses, spent: Duration) {
        self.steps += 1;
        self.samples += pairs;
        self.losses.total += losses.total;

        if let Some(distance) = losses.distillation {
            *self.losses.distillation.get_or_insert_default() += distance;
        }

        self.elapsed += spent;
    }

    /// Mean loss of the steps, in nats.
    pub(super) fn mean_loss(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.losses.total / self.steps as f64)
    }

    /// Mean distance from the teacher's features.
    pub(super) fn mean_distillation_loss(&self) -> Option<f64> {
        self.losses.distillation.map(|sum| sum / self.steps as f64)
    }

    /// Pairs a second.
    pub(super) fn samples_per_second(&self) -> Option<f64> {
        (!self.elapsed.is_zero()).then(|| self.samples as f64 / self.elapsed.as_secs_f64())
    }

    /// Seconds that so many further steps take at this rate.
    pub(super) fn estimate_seconds(&self, steps: u64) -> Option<i64> {
        let each = self.elapsed.as_secs_f64() / self.steps as f64;
        (self.steps > 0).then(|| (each * steps as f64).round() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_meter_knows_nothing() {
        let meter = Meter::default();
        assert_eq!(meter.mean_distillation_loss(), None);
        assert_eq!(
            (
                meter.mean_loss(),
                meter.samples_per_second(),
                meter.estimate_seconds(5)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn rates_are_over_all_steps_since_the_last_report() {
        let mut meter = Meter::default();
        let losses = |total, distance| StepLosses {
            total,
            distillation: Some(distance),
        };

        meter.add_step(100, losses(3.0, 0.5), Duration::from_millis(500));
        meter.add_step(100, losses(1.0, 0.25), Duration::from_millis(1500));
        assert_eq!(meter.mean_loss(), Some(2.0));
        assert_eq!(meter.mean_distillation_loss(), Some(0.375));
        assert_eq!(meter.samples_per_second(), Some(100.0));
        assert_eq!(meter.estimate_seconds(7), Some(7));
    }
}
