//! One step: the gradients of a batch, and what they change. Never which batch it is.

use std::time::Instant;

use cnclip_crds::stage::Duplicates;

use super::Run;
use crate::error::{Error, Result};
use crate::train::meter::Losses;
use crate::train::together::Together;
use cnclip_compute::collective::Ranks;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_data::loader;
use cnclip_nn::model::Texts;
use cnclip_nn::model::clip::Batch;

impl Run {
    /// One optimizer step over the next global batch. One whose loss or gradient is not finite is
    /// skipped: the batch is behind us, the model and the optimizer are as they were.
    ///
    /// # Errors
    /// If no batch can be made, or more steps were skipped than may be.
    pub(in crate::train) fn take_step(&mut self) -> Result<()> {
        let start = Instant::now();
        let step = self.progress.step;
        let batch = self.loader.next_batch()?;
        let batch = batch.ok_or_else(|| Error::Bug(format!("the loader ended at step {step}")))?;
        self.together.world.at(step);
        self.statistics.copy_from(self.params.state.view());

        if self.config.duplicates == Duplicates::Positives {
            let found = self.together.fingerprints(&batch.fingerprints);
            self.accumulator.loss.targets.match_equal(found);
        }

        let losses = self.differentiate(step, &batch);
        // Of a rank that is lost the others have only a part.
        self.together.world.check()?;
        let pairs = batch.pairs.len() * self.together.world.count();
        let updated = self.update(step, losses.total);

        // After a fault of a device the numbers read back of it are made up.
        self.params.memory().check()?;
        match updated {
            Ok(()) => self.count(pairs as u64, losses, start),
            Err(reason) => self.skip(&reason)?,
        }

        self.progress.step += 1;
        self.progress.train_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Changes the weights by their gradients, or nothing at all.
    ///
    /// # Errors
    /// What is not finite.
    fn update(&mut self, step: u64, loss: f64) -> Result<(), String> {
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}"));
        }

        // Moments know only of steps that were not skipped.
        let taken = step - self.progress.steps_skipped;
        let norm = self
            .adamw
            .step(&mut self.params, taken, self.schedule.rate(step));

        self.progress.gradient_norm = Some(norm.map_err(|error| error.to_string())?);
        self.clip.clamp_logit_scale(&mut self.params);
        if let Some(average) = &mut self.average {
            average.add(&self.params, taken);
        }

        Ok(())
    }

    fn skip(&mut self, reason: &str) -> Result<()> {
        self.params.state.copy_from(self.statistics.view());
        self.progress.steps_skipped += 1;
        let skipped = self.progress.steps_skipped;
        let most = self.config.max_skipped_steps;
        let step = self.progress.step;

        if skipped > most as u64 {
            return Err(Error::Data(format!(
                "Step {step} cannot be taken: {reason}. Steps without a finite loss and gradient so far: \
                 {skipped}; maxSkippedSteps allows {most}. Lower the learning rate, lengthen the warm-up, \
                 set maxGradientNorm, or begin with an earlier checkpoint."
            )));
        }

        if self.together.world.is_first() {
            tracing::warn!(step, skipped, "step skipped: {reason}");
        }

        Ok(())
    }

    /// Forward, losses, backward: the gradients of one global batch, given this rank's share of it.
    fn differentiate(&mut self, step: u64, batch: &loader::Batch) -> Losses {
        let pairs = batch.pairs.len();
        let texts = Texts {
            ids: &batch.ids,
            offsets: &batch.offsets,
        };

        let batch = Batch {
            pixels: Pixels::Bytes(&batch.pixels),
            texts,
        };

        let Together { world, buckets, .. } = &mut self.together;
        let first = world.rank() * pairs;
        let given = (batch, Dropout::new(self.config.seed, step, first as u64));
        let Self {
            accumulator,
            clip,
            params,
            distillation,
            ..
        } = self;

        params.clear_gradients();
        let score = accumulator.forward((clip, params), given);
        let mut losses = Losses {
            total: score.loss,
            distillation: None,
        };

        if let Some(distillation) = distillation {
            let images = accumulator.images(pairs);
            let distance = distillation.evaluate(batch.pixels, images, &**world);
            losses.total += distillation.weight() * distance;
            losses.distillation = Some(distance);
        }

        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        accumulator.backward((clip, params), given, buckets);
        buckets.finish(&mut params.gradients.view_mut());
        losses
    }

    fn count(&mut self, pairs: u64, losses: Losses, start: Instant) {
        self.progress.samples_seen += pairs;
        self.progress.meter.add(pairs, losses, start.elapsed());
    }
}
