//! The gradient of a global batch from parts that fit into memory: the features of all parts are
//! made first and compared at once, then each part is made again for its backward pass. Decides
//! when a part is computed, never what.

use std::ops::Range;
use std::sync::Arc;

use crate::loss::{ContrastiveLoss, LossOutput};
use crate::model::clip::{Clip, ClipBatch};
use cnclip_compute::collective::{Collective, GradientReducer, SingleRank};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

/// The loss of a global batch, and what its micro batches leave behind for each other.
///
/// # Guarantees
/// The gradient is that of one pass over the whole batch. What depends on the batch alone does too:
/// batch normalisation takes the statistics of each micro batch, and the running ones follow each
/// once a step.
///
/// # Source
/// The reference's `--accum-freq`. It draws other dropout masks for the second pass, lets running
/// statistics follow both, and adds the gradient of the logit scale once for each micro batch.
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
    /// Where the captions of a micro batch begin.
    offsets: Vec<usize>,
    /// The running statistics after the first pass.
    buffers: Tensor,
}

impl GradientAccumulator {
    /// Memory for global batches of so many pairs, so many of which are computed at once.
    pub fn new(clip: &Clip, params: &Params, sizes: (usize, usize)) -> Self {
        Self::with_ranks(clip, params, sizes, Arc::new(SingleRank))
    }

    /// The same, where ranks share each global batch equally.
    pub fn with_ranks(
        clip: &Clip,
        params: &Params,
        (global_batch, micro_batch): (usize, usize),
        ranks: Arc<dyn Collective>,
    ) -> Self {
        let width = clip.feature_width();
        let memory = params.memory();
        let features = || memory.alloc_f32(global_batch * width);
        let own = ranks.rank_range(global_batch).len();

        Self {
            loss: ContrastiveLoss::new_in(memory, (global_batch, own), width),
            ranks,
            width,
            micro_batch,
            images: features(),
            texts: features(),
            offsets: Vec::with_capacity(micro_batch + 1),
            buffers: memory.alloc_f32(params.buffers.len()),
        }
    }

    /// The loss of a global batch, given this rank's share of it.
    pub fn forward(
        &mut self,
        (clip, params): (&mut Clip, &mut Params),
        (batch, dropout): (ClipBatch<'_>, Dropout),
    ) -> LossOutput {
        let pairs = batch.texts.text_count();
        let all = pairs * self.ranks.world_size();
        let first = self.ranks.rank_range(all).start;

        for part in self.micro_batch_ranges(pairs) {
            let place = (first + part.start) * self.width..(first + part.end) * self.width;
            let dropout = dropout.skip_samples(part.start);
            let part = batch.slice_samples(part, pairs, &mut self.offsets);
            let (images, texts) = clip.forward(params, part, dropout);
            self.images.slice_mut(place.clone()).copy_from(images);
            self.texts.slice_mut(place).copy_from(texts);
        }

        self.buffers.copy_from(params.buffers.view());
        for features in [&mut self.images, &mut self.texts] {
            self.ranks
                .all_gather_tensor(features.first_n_mut(all * self.width));
        }

        let features = (
            self.images.first_n(all * self.width),
            self.texts.first_n(all * self.width),
        );

        self.loss
            .compute_loss(features, clip.logit_scale(params), &*self.ranks)
    }

    /// Pairs that are computed at once.
    pub fn micro_batch_size(&self) -> usize {
        self.micro_batch
    }

    /// The unit features of this rank's pictures, so many of them, and their gradients, to be added to.
    pub fn image_features_and_gradients(
        &mut self,
        pairs: usize,
    ) -> (TensorView<'_>, TensorViewMut<'_>) {
        let own = self.ranks.rank_range(pairs * self.ranks.world_size());
        let features = self
            .images
            .slice(own.start * self.width..own.end * self.width);

        (features, self.loss.image_gradients_mut(0..pairs))
    }

    /// Adds to the gradients of all weights but the logit scale, given what the forward pass was
    /// given; those that no later part adds to go to `reducer`.
    pub fn backward(
        &mut self,
        (clip, params): (&mut Clip, &mut Params),
        (batch, dropout): (ClipBatch<'_>, Dropout),
        reducer: &mut dyn GradientReducer,
    ) {
        let pairs = batch.texts.text_count();
        // Backwards, because the model still holds what it made of the last part.
        for part in self.micro_batch_ranges(pairs).rev() {
            let gradients = self.loss.feature_gradients(part.clone());
            let dropout = dropout.skip_samples(part.start);
            let first = part.start == 0;
            let last = part.end == pairs;
            let part = batch.slice_samples(part, pairs, &mut self.offsets);

            if !last {
                clip.recompute_forward(params, part, dropout);
            }

            let reducer: &mut dyn GradientReducer = if first { &mut *reducer } else { &mut () };
            clip.backward(params, part, dropout, gradients, reducer);
        }

        params.buffers.copy_from(self.buffers.view());
    }

    fn micro_batch_ranges(
        &self,
        pairs: usize,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let size = self.micro_batch;
        (0..pairs.div_ceil(size)).map(move |part| part * size..pairs.min((part + 1) * size))
    }
}
