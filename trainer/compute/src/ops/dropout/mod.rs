//! Dropout whose masks are functions of (seed, step, site, sample, element): the backward computes its
//! mask again instead of keeping it, and a resumed run drops what the first run dropped.

mod cpu;
mod gpu;

use crate::ops::sequences::Sequences;
use crate::random::{derive_key, mix32};
use crate::tensor::{TensorView, TensorViewMut};

/// Which elements are dropped, at one site of the model.
///
/// ```
/// use cnclip_compute::ops::dropout::Dropout;
///
/// let step = Dropout::new(1, 2, 0);
/// let mask = step.at_site(7, 0.5).sample_mask(3);
/// let again = Dropout::new(1, 2, 0).at_site(7, 0.5).sample_mask(3);
/// for element in 0..10 {
///     assert_eq!(mask.element_scale(element), again.element_scale(element));
///     assert!([0.0, 2.0].contains(&mask.element_scale(element)));
/// }
/// assert!(!Dropout::NONE.at_site(7, 0.5).is_active());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    key: u64,
    first_sample: u64,
    rate: f32,
}

impl Dropout {
    /// Drops nothing: evaluation.
    pub const NONE: Self = Self {
        key: 0,
        first_sample: 0,
        rate: 0.0,
    };

    /// The masks of one step; `first_sample` is the index of this batch's first sample in the global
    /// batch, so that two ranks draw different masks.
    pub fn new(seed: u64, step: u64, first_sample: u64) -> Self {
        Self {
            key: derive_key(seed, step),
            first_sample,
            rate: 0.0,
        }
    }

    /// The masks for a batch that begins `samples` later in the global batch: of the next micro-batch.
    pub fn skip_samples(self, samples: usize) -> Self {
        if self == Self::NONE {
            return self;
        }

        Self {
            first_sample: self.first_sample + samples as u64,
            ..self
        }
    }

    /// The masks at one site of the model, where `rate` is the share of elements that are dropped.
    pub fn at_site(self, site: u64, rate: f32) -> Self {
        // NONE stays inactive at every site: evaluation passes it where training passes its dropout.
        let rate = if self == Self::NONE { 0.0 } else { rate };
        Self {
            key: derive_key(self.key, site),
            rate,
            ..self
        }
    }

    /// Whether anything is dropped at all.
    pub fn is_active(self) -> bool {
        self.rate > 0.0
    }

    /// What a kernel computes the same masks from.
    pub(in crate::ops) fn kernel_parameters(self) -> KernelDropout {
        let mask = self.sample_mask(0);
        KernelDropout {
            key: self.key,
            first_sample: self.first_sample,
            dropped_below: mask.dropped_below,
            scale: mask.scale,
        }
    }

    /// The mask of one sample.
    pub fn sample_mask(self, sample: usize) -> DropoutMask {
        DropoutMask {
            key: derive_key(self.key, self.first_sample + sample as u64) as u32,
            // In f64: an f32 cannot hold a bound between 2²⁴ and 2³² exactly.
            dropped_below: (f64::from(self.rate) * f64::from(u32::MAX)) as u32,
            scale: 1.0 / (1.0 - self.rate),
        }
    }

    /// A random number for an element of a sample, for choices that are more than dropped or not.
    pub fn random_u64(self, sample: usize, element: u32) -> u64 {
        derive_key(
            derive_key(self.key, self.first_sample + sample as u64),
            element.into(),
        )
    }

    /// `y = mask(y) + residual`.
    ///
    /// # Shapes
    /// `y`, `residual` `[pooled tokens, width]`.
    pub fn mask_and_add(
        self,
        sequences: Sequences<'_>,
        width: usize,
        y: TensorViewMut<'_>,
        residual: TensorView<'_>,
    ) {
        match y {
            TensorViewMut::Host(y) => {
                cpu::mask_and_add(self, sequences, width, y, residual.expect_host())
            }
            TensorViewMut::Device(mut y) => {
                gpu::mask_and_add(self, sequences, width, &mut y, residual.expect_device());
            }
        }
    }

    /// `y = mask(x)`: the forward, and also the backward.
    ///
    /// # Shapes
    /// `x`, `y` `[pooled tokens, width]`.
    pub fn apply_mask(
        self,
        sequences: Sequences<'_>,
        width: usize,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
    ) {
        match y {
            TensorViewMut::Host(y) => cpu::apply_mask(self, sequences, width, x.expect_host(), y),
            TensorViewMut::Device(mut y) => {
                gpu::apply_mask(self, sequences, width, x.expect_device(), &mut y)
            }
        }
    }
}

/// What a kernel computes masks from: [`Dropout`] as plain numbers.
#[derive(Clone, Copy)]
pub(in crate::ops) struct KernelDropout {
    /// The key of the site.
    pub(in crate::ops) key: u64,
    /// The index of the batch's first sample in the global batch.
    pub(in crate::ops) first_sample: u64,
    /// An element whose hash is below is dropped; 0 drops none.
    pub(in crate::ops) dropped_below: u32,
    /// What the others are multiplied with.
    pub(in crate::ops) scale: f32,
}

/// The mask of one sample at one site.
#[derive(Clone, Copy, Debug)]
pub struct DropoutMask {
    key: u32,
    dropped_below: u32,
    scale: f32,
}

impl DropoutMask {
    /// What an element is multiplied with: 0, or the inverse of the share that is kept.
    #[inline(always)]
    pub fn element_scale(self, element: usize) -> f32 {
        // Wraps modulo 2³², as `unsigned` does in the kernel: both draw the same masks.
        let kept = mix32((element as u32).wrapping_add(self.key)) >= self.dropped_below;
        if kept { self.scale } else { 0.0 }
    }

    /// `y = mask(x)` for consecutive elements, of which the first has the index `first`.
    #[inline(always)]
    pub fn apply_to(self, first: usize, x: &[f32], y: &mut [f32]) {
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            *y = x * self.element_scale(first + i);
        }
    }
}
