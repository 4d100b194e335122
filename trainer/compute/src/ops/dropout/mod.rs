//! Dropout whose masks are functions of (seed, step, site, sample, element): a backward makes its
//! mask again instead of keeping it, and a resumed run drops what the first run dropped.

pub mod gpu;

use crate::ops::sequences::{PooledRows, Sequences};
use crate::random::{derive_key, mix32};
use crate::tensor::{TensorView, TensorViewMut};

/// Which values are dropped, at one place of the model.
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

    /// The masks of one step; `first_sample` is the place of this batch's first sample in the global
    /// batch, so that two workers draw different masks.
    pub fn new(seed: u64, step: u64, first_sample: u64) -> Self {
        Self {
            key: derive_key(seed, step),
            first_sample,
            rate: 0.0,
        }
    }

    /// The masks of the samples that come so many later in the global batch.
    pub fn skip_samples(self, samples: usize) -> Self {
        if self == Self::NONE {
            return self;
        }

        Self {
            first_sample: self.first_sample + samples as u64,
            ..self
        }
    }

    /// The masks at one place of the model, where a share of values is dropped.
    pub fn at_site(self, site: u64, rate: f32) -> Self {
        // NONE stays NONE: it has no key.
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

    /// What a device makes the same masks of: the key of the place, the first sample, below which number
    /// an element is dropped (none below 0), and what others are multiplied with.
    pub(crate) fn device_parameters(self) -> (u64, u64, u32, f32) {
        let mask = self.sample_mask(0);
        (self.key, self.first_sample, mask.dropped_below, mask.scale)
    }

    /// The mask of one sample.
    pub fn sample_mask(self, sample: usize) -> DropoutMask {
        DropoutMask {
            key: derive_key(self.key, self.first_sample + sample as u64) as u32,
            dropped_below: (f64::from(self.rate) * f64::from(u32::MAX)) as u32,
            scale: 1.0 / (1.0 - self.rate),
        }
    }

    /// A random number for an element of a sample, where a share of values does not say it all.
    pub fn random_u64(self, sample: usize, element: u32) -> u64 {
        derive_key(
            derive_key(self.key, self.first_sample + sample as u64),
            element.into(),
        )
    }

    /// `y = mask(y) + residual`.
    ///
    /// # Shapes
    /// `y`, `residual` [kept, width].
    pub fn mask_and_add(
        self,
        sequences: Sequences<'_>,
        width: usize,
        y: TensorViewMut<'_>,
        residual: TensorView<'_>,
    ) {
        match y {
            TensorViewMut::Host(y) => {
                self.mask_and_add_host(sequences, width, y, residual.expect_host())
            }
            TensorViewMut::Device(mut y) => {
                gpu::mask_and_add(self, sequences, width, &mut y, residual.expect_device());
            }
        }
    }

    fn mask_and_add_host(
        self,
        sequences: Sequences<'_>,
        width: usize,
        y: &mut [f32],
        residual: &[f32],
    ) {
        sequences.par_for_each(
            (PooledRows(y, width), PooledRows(residual, width)),
            |sample, (y, residual)| {
                if self.is_active() {
                    let mask = self.sample_mask(sample);
                    for (i, (y, residual)) in y.0.iter_mut().zip(residual.0).enumerate() {
                        *y = *y * mask.element_scale(i) + residual;
                    }
                } else {
                    y.0.iter_mut()
                        .zip(residual.0)
                        .for_each(|(y, residual)| *y += residual);
                }
            },
        );
    }

    /// `y = mask(x)`: forward, and backward alike.
    ///
    /// # Shapes
    /// `x`, `y` [kept, width].
    pub fn apply_mask(
        self,
        sequences: Sequences<'_>,
        width: usize,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
    ) {
        match y {
            TensorViewMut::Host(y) => self.apply_mask_host(sequences, width, x.expect_host(), y),
            TensorViewMut::Device(mut y) => {
                gpu::apply_mask(self, sequences, width, x.expect_device(), &mut y)
            }
        }
    }

    fn apply_mask_host(self, sequences: Sequences<'_>, width: usize, x: &[f32], y: &mut [f32]) {
        sequences.par_for_each(
            (PooledRows(x, width), PooledRows(y, width)),
            |sample, (x, y)| {
                if self.is_active() {
                    self.sample_mask(sample).apply_to(0, x.0, y.0);
                } else {
                    y.0.copy_from_slice(x.0);
                }
            },
        );
    }
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
        let kept = mix32((element as u32).wrapping_add(self.key)) >= self.dropped_below;
        if kept { self.scale } else { 0.0 }
    }

    /// `y = mask(x)` for neighbours that start with element `first`.
    #[inline(always)]
    pub fn apply_to(self, first: usize, x: &[f32], y: &mut [f32]) {
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            *y = x * self.element_scale(first + i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_share_and_the_mean_it_promises() {
        for rate in [0.1, 0.5, 0.9] {
            let mask = Dropout::new(1, 2, 3).at_site(4, rate).sample_mask(5);
            let mean = (0..100_000).map(|i| mask.element_scale(i)).sum::<f32>() / 1e5;
            let kept = (0..100_000)
                .filter(|&i| mask.element_scale(i) > 0.0)
                .count() as f32
                / 1e5;
            assert!((mean - 1.0).abs() < 0.02, "rate {rate}: mean {mean}");
            assert!(
                (kept - (1.0 - rate)).abs() < 0.005,
                "rate {rate}: kept {kept}"
            );
        }
    }

    #[test]
    fn every_part_of_the_key_changes_the_mask() {
        let drawn = |seed, step, first, site, sample| -> Vec<bool> {
            let mask = Dropout::new(seed, step, first)
                .at_site(site, 0.5)
                .sample_mask(sample);
            (0..64).map(|i| mask.element_scale(i) > 0.0).collect()
        };

        let one = drawn(1, 2, 3, 4, 5);
        assert_eq!(one, drawn(1, 2, 3, 4, 5));
        assert_eq!(
            one,
            drawn(1, 2, 4, 4, 4),
            "the same sample of the global batch"
        );

        assert_eq!(Dropout::new(1, 2, 3).skip_samples(2), Dropout::new(1, 2, 5));
        for other in [
            (9, 2, 3, 4, 5),
            (1, 9, 3, 4, 5),
            (1, 2, 9, 4, 5),
            (1, 2, 3, 9, 5),
        ] {
            assert_ne!(
                one,
                drawn(other.0, other.1, other.2, other.3, other.4),
                "{other:?}"
            );
        }
    }

    #[test]
    fn evaluation_drops_nothing_at_any_site() {
        assert!(!Dropout::NONE.at_site(3, 0.5).is_active());
        assert!(!Dropout::NONE.skip_samples(7).at_site(3, 0.5).is_active());
        let offsets = [0, 2];
        let mut y = [1.0, 2.0];
        let residual = TensorView::Host(&[3.0, 4.0]);
        let sequences = Sequences::new(&offsets);

        Dropout::NONE.at_site(3, 0.5).mask_and_add(
            sequences,
            1,
            TensorViewMut::Host(&mut y),
            residual,
        );

        assert_eq!(y, [4.0, 6.0]);
    }
}
