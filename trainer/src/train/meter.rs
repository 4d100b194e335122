//! What is added up between two reports. Pure: the time is an argument.

use std::time::Duration;

/// Sums since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Meter {
    steps: u64,
    pairs: u64,
    losses: Losses,
    spent: Duration,
}

/// What a step lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Losses {
    /// What the step made smaller, in nats.
    pub(super) total: f64,
    /// The distance from the teacher's features that is in it, before it was weighted.
    pub(super) distillation: Option<f64>,
}

impl Meter {
    /// Adds a step.
    pub(super) fn add(&mut self, pairs: u64, losses: Losses, spent: Duration) {
        self.steps += 1;
        self.pairs += pairs;
        self.losses.total += losses.total;

        if let Some(distance) = losses.distillation {
            *self.losses.distillation.get_or_insert_default() += distance;
        }

        self.spent += spent;
    }

    /// Mean loss of the steps, in nats.
    pub(super) fn mean_loss(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.losses.total / self.steps as f64)
    }

    /// Mean distance from the teacher's features.
    pub(super) fn mean_distillation(&self) -> Option<f64> {
        self.losses.distillation.map(|sum| sum / self.steps as f64)
    }

    /// Pairs a second.
    pub(super) fn pairs_per_second(&self) -> Option<f64> {
        (!self.spent.is_zero()).then(|| self.pairs as f64 / self.spent.as_secs_f64())
    }

    /// Seconds that so many further steps take at this rate.
    pub(super) fn seconds_for(&self, steps: u64) -> Option<i64> {
        let each = self.spent.as_secs_f64() / self.steps as f64;
        (self.steps > 0).then(|| (each * steps as f64).round() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_meter_knows_nothing() {
        let meter = Meter::default();
        assert_eq!(meter.mean_distillation(), None);
        assert_eq!(
            (
                meter.mean_loss(),
                meter.pairs_per_second(),
                meter.seconds_for(5)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn rates_are_over_all_steps_since_the_last_report() {
        let mut meter = Meter::default();
        let losses = |total, distance| Losses {
            total,
            distillation: Some(distance),
        };

        meter.add(100, losses(3.0, 0.5), Duration::from_millis(500));
        meter.add(100, losses(1.0, 0.25), Duration::from_millis(1500));
        assert_eq!(meter.mean_loss(), Some(2.0));
        assert_eq!(meter.mean_distillation(), Some(0.375));
        assert_eq!(meter.pairs_per_second(), Some(100.0));
        assert_eq!(meter.seconds_for(7), Some(7));
    }
}
