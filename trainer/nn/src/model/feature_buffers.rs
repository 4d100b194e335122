//! The features of a tower on their way to the loss, and their gradients on the way back.

use cnclip_compute::ops::l2_normalize;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// The features of one tower, before and after they are made unit vectors.
#[derive(Debug)]
pub(super) struct FeatureBuffers {
    pub(super) width: usize,
    used_len: usize,
    raw: Tensor,
    unit: Tensor,
    gradient: Tensor,
}

impl FeatureBuffers {
    /// Memory for the features of a batch.
    pub(super) fn new(memory: &Memory, batch: usize, width: usize) -> Self {
        let len = batch * width;
        Self {
            width,
            used_len: 0,
            // In fp32: the loss compares features, and bf16 has too few digits for near cosines.
            raw: memory.alloc_f32(len),
            unit: memory.alloc_f32(len),
            gradient: memory.alloc_activations(len),
        }
    }

    /// Where a tower writes the features of `count` samples.
    pub(super) fn prepare_output(&mut self, count: usize) -> TensorViewMut<'_> {
        self.used_len = count * self.width;
        self.raw.first_n_mut(self.used_len)
    }

    /// The unit features of the samples that were written last.
    pub(super) fn normalize_rows(&mut self) -> TensorView<'_> {
        // Not in place: the backward pass needs the lengths of the raw features.
        let raw = self.raw.first_n(self.used_len);
        l2_normalize::forward(self.width, raw, self.unit.first_n_mut(self.used_len));
        self.unit.first_n(self.used_len)
    }

    /// The gradient of the raw features, given that of the unit features.
    pub(super) fn backward(&mut self, dunit: TensorView<'_>) -> TensorView<'_> {
        let raw = self.raw.first_n(self.used_len);
        let gradient = self.gradient.first_n_mut(self.used_len);
        l2_normalize::backward(self.width, raw, dunit, gradient);
        self.gradient.first_n(self.used_len)
    }
}
