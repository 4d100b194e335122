//! The gradient of a global batch from parts that fit into memory: the features of all parts are
//! made first and compared at once, then each part is made again for its backward pass. Decides
//! when a part is computed, never what.

use std::ops::Range;
use std::sync::Arc;

use crate::loss::{ContrastiveLoss, Score};
use crate::model::clip::{Batch, Clip};
use cnclip_compute::collective::{Alone, Ranks, Reducer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Array, View, ViewMut};

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
pub struct Accumulator {
    /// The loss of the last global batch.
    pub loss: ContrastiveLoss,
    ranks: Arc<dyn Ranks>,
    width: usize,
    micro_batch: usize,
    /// The features of all ranks.
    images: Array,
    texts: Array,
    /// Where the captions of a micro batch begin.
    offsets: Vec<usize>,
    /// The running statistics after the first pass.
    state: Array,
}

impl Accumulator {
    /// Memory for global batches of so many pairs, so many of which are computed at once.
    pub fn new(clip: &Clip, params: &Params, sizes: (usize, usize)) -> Self {
        Self::shared(clip, params, sizes, Arc::new(Alone))
    }

    /// The same, where ranks share each global batch equally.
    pub fn shared(
        clip: &Clip,
        params: &Params,
        (global_batch, micro_batch): (usize, usize),
        ranks: Arc<dyn Ranks>,
    ) -> Self {
        let width = clip.features();
        let memory = params.memory();
        let features = || memory.exact(global_batch * width);
        let own = ranks.share(global_batch).len();

        Self {
            loss: ContrastiveLoss::within(memory, (global_batch, own), width),
            ranks,
            width,
            micro_batch,
            images: features(),
            texts: features(),
            offsets: Vec::with_capacity(micro_batch + 1),
            state: memory.exact(params.state.len()),
        }
    }

    /// The loss of a global batch, given this rank's share of it.
    pub fn forward(
        &mut self,
        (clip, params): (&mut Clip, &mut Params),
        (batch, dropout): (Batch<'_>, Dropout),
    ) -> Score {
        let pairs = batch.texts.count();
        let all = pairs * self.ranks.count();
        let first = self.ranks.share(all).start;

        for part in self.parts(pairs) {
            let place = (first + part.start) * self.width..(first + part.end) * self.width;
            let dropout = dropout.after(part.start);
            let part = batch.part(part, pairs, &mut self.offsets);
            let (images, texts) = clip.forward(params, part, dropout);
            self.images.part_mut(place.clone()).copy_from(images);
            self.texts.part_mut(place).copy_from(texts);
        }

        self.state.copy_from(params.state.view());
        for features in [&mut self.images, &mut self.texts] {
            self.ranks
                .gather_array(features.first_mut(all * self.width));
        }

        let features = (
            self.images.first(all * self.width),
            self.texts.first(all * self.width),
        );

        self.loss
            .evaluate(features, clip.logit_scale(params), &*self.ranks)
    }

    /// Pairs that are computed at once.
    pub fn at_once(&self) -> usize {
        self.micro_batch
    }

    /// The unit features of this rank's pictures, so many of them, and their gradients, to be added to.
    pub fn images(&mut self, pairs: usize) -> (View<'_>, ViewMut<'_>) {
        let own = self.ranks.share(pairs * self.ranks.count());
        let features = self
            .images
            .part(own.start * self.width..own.end * self.width);

        (features, self.loss.image_gradients(0..pairs))
    }

    /// Adds to the gradients of all weights but the logit scale, given what the forward pass was
    /// given; those that no later part adds to go to `reducer`.
    pub fn backward(
        &mut self,
        (clip, params): (&mut Clip, &mut Params),
        (batch, dropout): (Batch<'_>, Dropout),
        reducer: &mut dyn Reducer,
    ) {
        let pairs = batch.texts.count();
        // Backwards, because the model still holds what it made of the last part.
        for part in self.parts(pairs).rev() {
            let gradients = self.loss.gradients(part.clone());
            let dropout = dropout.after(part.start);
            let first = part.start == 0;
            let last = part.end == pairs;
            let part = batch.part(part, pairs, &mut self.offsets);

            if !last {
                clip.forward_again(params, part, dropout);
            }

            let reducer: &mut dyn Reducer = if first { &mut *reducer } else { &mut () };
            clip.backward(params, part, dropout, gradients, reducer);
        }

        params.state.copy_from(self.state.view());
    }

    fn parts(&self, pairs: usize) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let size = self.micro_batch;
        (0..pairs.div_ceil(size)).map(move |part| part * size..pairs.min((part + 1) * size))
    }
}
