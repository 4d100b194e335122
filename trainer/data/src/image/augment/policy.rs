//! The 25 pairs of operations that AutoAugment found for ImageNet.
//!
//! # Source
//! Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", arXiv 1805.09501, table 9.

use super::operation::AugmentOp::{self, *};
use super::rng::AugmentRng;
use crate::image::Rgb;

/// An operation, the probability of its use, and its level of 0 to 10.
type PolicyStep = (AugmentOp, f64, i32);

// In the order of the table, with its duplicates: a policy is drawn by its index, and one that is there twice is
// twice as likely.
pub(super) const AUTO_AUGMENT_POLICY: [[PolicyStep; 2]; 25] = [
    [(Posterize, 0.4, 8), (Rotate, 0.6, 9)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
    [(Equalize, 0.8, 8), (Equalize, 0.6, 3)],
    [(Posterize, 0.6, 7), (Posterize, 0.6, 6)],
    [(Equalize, 0.4, 7), (Solarize, 0.2, 4)],
    [(Equalize, 0.4, 4), (Rotate, 0.8, 8)],
    [(Solarize, 0.6, 3), (Equalize, 0.6, 7)],
    [(Posterize, 0.8, 5), (Equalize, 1.0, 2)],
    [(Rotate, 0.2, 3), (Solarize, 0.6, 8)],
    [(Equalize, 0.6, 8), (Posterize, 0.4, 6)],
    [(Rotate, 0.8, 8), (Color, 0.4, 0)],
    [(Rotate, 0.4, 9), (Equalize, 0.6, 2)],
    [(Equalize, 0.0, 7), (Equalize, 0.8, 8)],
    [(Invert, 0.6, 4), (Equalize, 1.0, 8)],
    [(Color, 0.6, 4), (Contrast, 1.0, 8)],
    [(Rotate, 0.8, 8), (Color, 1.0, 2)],
    [(Color, 0.8, 8), (Solarize, 0.8, 7)],
    [(Sharpness, 0.4, 7), (Invert, 0.6, 8)],
    [(ShearX, 0.6, 5), (Equalize, 1.0, 9)],
    [(Color, 0.4, 0), (Equalize, 0.6, 3)],
    [(Equalize, 0.4, 7), (Solarize, 0.2, 4)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
    [(Invert, 0.6, 4), (Equalize, 1.0, 8)],
    [(Color, 0.6, 4), (Contrast, 1.0, 8)],
    [(Equalize, 0.8, 8), (Equalize, 0.6, 3)],
];

/// Draws a pair and applies each of its operations with its probability.
pub(super) fn apply_policy(square: &mut Vec<Rgb>, side: usize, draws: &mut AugmentRng) {
    for (operation, probability, level) in
        AUTO_AUGMENT_POLICY[draws.random_index(AUTO_AUGMENT_POLICY.len())]
    {
        if draws.random_bool(probability) {
            // Drawn only for signed operations: a draw more would shift all draws after it.
            let turned = operation.is_signed() && draws.random_bool(0.5);
            operation.apply_level(square, side, if turned { -level } else { level });
        }
    }
}
