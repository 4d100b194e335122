//! Gradient accumulation: the gradient of a global batch from micro-batches that fit into memory. Decides
//! when a micro-batch is computed, never what.
//!
//! A contrastive loss compares all samples of a batch, so gradients of micro-batches cannot simply be
//! added: the features of all micro-batches are computed first and compared at once, then each
//! micro-batch is computed again for its backward pass.

use std::ops::Range;
use std::sync::Arc;

use cnclip_compute::collective::{Collective, GradientReducer, SingleRank};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Tensor;

use crate::loss::{ContrastiveLoss, LossOutput};
use crate::model::clip::{Clip, ClipBatch};
use crate::model::{FeaturesAndGradients, ImageTextFeatures};

/// The loss of a global batch, and what its micro-batches share.
///
/// # Guarantees
/// The gradient is that of one pass over the whole batch, wherever samples are independent. Batch
/// normalisation is not: it takes the statistics of each micro-batch, and its running statistics follow
/// each once a step.
///
/// # Source
/// The reference's `--accum-freq`. It draws other dropout masks for the second pass, lets running
/// statistics follow both, and adds the gradient of the logit scale once for each micro-batch.
#[derive(Debug)]
pub struct GradientAccumulator {
    /// The loss of the last global batch.
    pub loss: ContrastiveLoss,
    ranks: Arc<dyn Collective>,
    width: usize,
    micro_batch: usize,
    /// The features of all ranks.
    images: Tensor,
    texts: Tensor,
    /// Where the texts of a micro-batch begin.
    offsets: Vec<usize>,
    /// The running statistics after the first pass.
    buffers: Tensor,
}

impl GradientAccumulator {
    /// Memory for global batches of `global_batch` samples, `micro_batch` of which are computed at once.
    pub fn new(clip: &Clip, params: &Params, global_batch: usize, micro_batch: usize) -> Self {
        Self::with_ranks(
            clip,
            params,
            global_batch,
            micro_batch,
            Arc::new(SingleRank),
        )
    }

    /// The same, where ranks share each global batch equally.
    pub fn with_ranks(
        clip: &Clip,
        params: &Params,
        global_batch: usize,
        micro_batch: usize,
        ranks: Arc<dyn Collective>,
    ) -> Self {
        let width = clip.feature_width();
        let memory = params.memory();
        let alloc_features = || memory.alloc_f32(global_batch * width);
        let local_batch = ranks.rank_range(global_batch).len();

        Self {
            loss: ContrastiveLoss::new_in(memory, global_batch, local_batch, width),
            ranks,
            width,
            micro_batch,
            images: alloc_features(),
            texts: alloc_features(),
            offsets: Vec::with_capacity(micro_batch + 1),
            buffers: memory.alloc_f32(params.buffers.len()),
        }
    }

    /// The loss of a global batch, given this rank's share of it.
    pub fn forward(
        &mut self,
        clip: &mut Clip,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
    ) -> LossOutput {
        let local_batch = batch.texts.text_count();
        let global_batch = local_batch * self.ranks.world_size();
        let first = self.ranks.rank_range(global_batch).start;

        for samples in self.micro_batch_ranges(local_batch) {
            let rows = first + samples.start..first + samples.end;
            // Masks depend on a sample's place in the global batch, not on the micro-batch.
            let dropout = dropout.skip_samples(samples.start);
            let micro_batch = batch.slice_samples(samples, local_batch, &mut self.offsets);
            let features = clip.forward(params, micro_batch, dropout);

            let range = rows.start * self.width..rows.end * self.width;
            self.images
                .slice_mut(range.clone())
                .copy_from(features.images);
            self.texts.slice_mut(range).copy_from(features.texts);
        }

        // The second pass moves the running statistics again; the backward pass puts these back.
        self.buffers.copy_from(params.buffers.view());

        let len = global_batch * self.width;
        // After all micro-batches, not after each: one large message costs less than many small ones.
        self.ranks.all_gather_tensor(self.images.first_n_mut(len));
        self.ranks.all_gather_tensor(self.texts.first_n_mut(len));

        let features = ImageTextFeatures {
            images: self.images.first_n(len),
            texts: self.texts.first_n(len),
        };

        let logit_scale = clip.logit_scale(params);
        self.loss.compute_loss(features, logit_scale, &*self.ranks)
    }

    /// Samples that are computed at once.
    pub fn micro_batch_size(&self) -> usize {
        self.micro_batch
    }

    /// The unit features of this rank's images, `local_batch` of them, and their gradients.
    pub fn image_features_and_gradients(&mut self, local_batch: usize) -> FeaturesAndGradients<'_> {
        let global_batch = local_batch * self.ranks.world_size();
        let local = self.ranks.rank_range(global_batch);
        FeaturesAndGradients {
            features: self
                .images
                .slice(local.start * self.width..local.end * self.width),
            gradients: self.loss.image_gradients_mut(0..local_batch),
        }
    }

    /// Adds to the gradients of all weights but the logit scale, given the arguments of the forward pass;
    /// complete gradients go to `reducer`.
    pub fn backward(
        &mut self,
        clip: &mut Clip,
        params: &mut Params,
        batch: ClipBatch<'_>,
        dropout: Dropout,
        reducer: &mut dyn GradientReducer,
    ) {
        let local_batch = batch.texts.text_count();
        // Backwards, because the model still holds the activations of the last micro-batch.
        for samples in self.micro_batch_ranges(local_batch).rev() {
            let is_first_computed = samples.end == local_batch;
            let is_last_computed = samples.start == 0;
            let dropout = dropout.skip_samples(samples.start);
            let dfeatures = self.loss.feature_gradients(samples.clone());
            let micro_batch = batch.slice_samples(samples, local_batch, &mut self.offsets);

            if !is_first_computed {
                clip.recompute_forward(params, micro_batch, dropout);
            }

            // Gradients are complete, and may be all-reduced, only with the last micro-batch.
            let reducer: &mut dyn GradientReducer = if is_last_computed {
                &mut *reducer
            } else {
                &mut ()
            };

            clip.backward(params, micro_batch, dropout, dfeatures, reducer);
        }

        params.buffers.copy_from(self.buffers.view());
    }

    /// The local batch in micro-batches, of which the last may be smaller.
    fn micro_batch_ranges(
        &self,
        local_batch: usize,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let size = self.micro_batch;
        (0..local_batch.div_ceil(size))
            .map(move |index| index * size..local_batch.min((index + 1) * size))
    }
}
