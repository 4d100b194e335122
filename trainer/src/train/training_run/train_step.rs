//! One step: the gradients of a batch, and what they change. Never which batch it is.

use std::time::Instant;

use cnclip_crds::stage::DuplicatePolicy;

use super::TrainingRun;
use crate::error::{Error, Result};
use crate::train::meter::StepLosses;
use crate::train::rank_sync::RankSync;
use cnclip_compute::collective::Collective;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::loader;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::ClipBatch;

impl TrainingRun {
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
        self.rank_sync.world.set_step(step);
        self.buffers_before_step
            .copy_from(self.params.buffers.view());

        if self.config.duplicates == DuplicatePolicy::Positives {
            let found = self.rank_sync.gather_fingerprints(&batch.fingerprints);
            self.accumulator.loss.targets.match_equal(found);
        }

        let losses = self.compute_gradients(step, &batch);
        // Of a rank that is lost the others have only a part.
        self.rank_sync.world.check_peers()?;
        let pairs = batch.sample_ids.len() * self.rank_sync.world.world_size();
        let updated = self.apply_gradients(step, losses.total);

        // After a fault of a device the numbers read back of it are made up.
        self.params.memory().synchronize()?;
        match updated {
            Ok(()) => self.record_step(pairs as u64, losses, start),
            Err(reason) => self.skip_step(&reason)?,
        }

        self.progress.step += 1;
        self.progress.train_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Changes the weights by their gradients, or nothing at all.
    ///
    /// # Errors
    /// What is not finite.
    fn apply_gradients(&mut self, step: u64, loss: f64) -> Result<(), String> {
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}"));
        }

        // Moments know only of steps that were not skipped.
        let taken = step - self.progress.steps_skipped;
        let norm = self
            .adamw
            .step(&mut self.params, taken, self.schedule.learning_rate(step));

        self.progress.gradient_norm = Some(norm.map_err(|error| error.to_string())?);
        self.clip.clamp_logit_scale(&mut self.params);
        if let Some(average) = &mut self.ema {
            average.update_average(&self.params, taken);
        }

        Ok(())
    }

    fn skip_step(&mut self, reason: &str) -> Result<()> {
        self.params
            .buffers
            .copy_from(self.buffers_before_step.view());
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

        if self.rank_sync.world.is_rank_zero() {
            tracing::warn!(step, skipped, "step skipped: {reason}");
        }

        Ok(())
    }

    /// Forward, losses, backward: the gradients of one global batch, given this rank's share of it.
    fn compute_gradients(&mut self, step: u64, batch: &loader::SampleBatch) -> StepLosses {
        let pairs = batch.sample_ids.len();
        let texts = PackedTexts {
            ids: &batch.token_ids,
            offsets: &batch.offsets,
        };

        let batch = ClipBatch {
            pixels: PixelBatch::Bytes(&batch.pixels),
            texts,
        };

        let RankSync { world, buckets, .. } = &mut self.rank_sync;
        let first = world.rank() * pairs;
        let dropout = Dropout::new(self.config.seed, step, first as u64);
        let Self {
            accumulator,
            clip,
            params,
            distillation,
            ..
        } = self;

        params.clear_gradients();
        let score = accumulator.forward(clip, params, batch, dropout);
        let mut losses = StepLosses {
            total: score.loss,
            distillation: None,
        };

        if let Some(distillation) = distillation {
            let images = accumulator.image_features_and_gradients(pairs);
            let distance = distillation.compute_loss(batch.pixels, images, &**world);
            losses.total += distillation.loss_weight() * distance;
            losses.distillation = Some(distance);
        }

        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        accumulator.backward(clip, params, batch, dropout, buckets);
        buckets.finish_all_reduce(&mut params.gradients.view_mut());
        losses
    }

    fn record_step(&mut self, pairs: u64, losses: StepLosses, start: Instant) {
        self.progress.samples_seen += pairs;
        self.progress.meter.add_step(pairs, losses, start.elapsed());
    }
}
