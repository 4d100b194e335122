//! Position embeddings of an image's patches, resized from one grid to another: how a model is fine-tuned at
//! a higher resolution.

use super::Tensor;

/// The one tensor whose shape depends on the resolution.
pub(super) const POSITION_EMBEDDING: &str = "visual.positional_embedding";

/// Whether positions of one shape can become those of another: both are square grids behind a class
/// token.
pub(super) fn can_resize(from: &[usize], to: &[usize]) -> bool {
    grid_sides(from, to).is_some()
}

/// The positions for so many tokens; `None` where either is no square grid behind a class token.
///
/// # Source
/// The reference's `resize_pos_embed`: bicubic with aligned corners, without antialiasing; the class
/// token's position stays.
pub(super) fn resize_positions(positions: &Tensor, shape: &[usize]) -> Option<Tensor> {
    let (from, to) = grid_sides(&positions.shape, shape)?;
    let width = shape[1];
    let (class, patches) = positions.values.split_at(width);
    let mut values = class.to_vec();

    // Row 0 belongs to the class token, which has no place in the image and stays.
    for place in 0..to * to {
        let rows = BicubicTaps::new(place / to, from, to);
        let cols = BicubicTaps::new(place % to, from, to);
        values.extend((0..width).map(|i| {
            let at = |y: usize, x: usize| patches[(y * from + x) * width + i];
            rows.weighted_sum(|y| cols.weighted_sum(|x| at(y, x)))
        }));
    }

    Some(Tensor {
        shape: shape.to_vec(),
        values,
    })
}

/// The sides of the old and the new grid.
fn grid_sides(from: &[usize], to: &[usize]) -> Option<(usize, usize)> {
    let (&[old, width], &[new, new_width]) = (from, to) else {
        return None;
    };

    if width == new_width {
        Some((grid_side(old)?, grid_side(new)?))
    } else {
        None
    }
}

/// The side of the grid behind a class token.
fn grid_side(tokens: usize) -> Option<usize> {
    let side = tokens.checked_sub(1)?.isqrt();
    (side > 0 && side * side + 1 == tokens).then_some(side)
}

/// The four old places that a new place is a mean of, and their weights.
struct BicubicTaps {
    indices: [usize; 4],
    weights: [f32; 4],
}

impl BicubicTaps {
    fn new(place: usize, from: usize, to: usize) -> Self {
        // With aligned corners the outermost places of both grids coincide.
        let exact = place as f32 * (from - 1) as f32 / (to - 1).max(1) as f32;
        let left = exact as usize;
        let fraction = exact.fract();
        Self {
            // Taps beyond the border repeat the outermost row or column, as PyTorch does.
            indices: [0, 1, 2, 3].map(|tap| (left + tap).saturating_sub(1).min(from - 1)),
            weights: [1.0 + fraction, fraction, 1.0 - fraction, 2.0 - fraction].map(cubic_weight),
        }
    }

    fn weighted_sum(&self, value: impl Fn(usize) -> f32) -> f32 {
        self.indices
            .iter()
            .zip(&self.weights)
            .map(|(&place, weight)| weight * value(place))
            .sum()
    }
}

/// The weight of a neighbour at this distance.
///
/// # Source
/// Keys (1981), with PyTorch's a = -0.75.
fn cubic_weight(distance: f32) -> f32 {
    const A: f32 = -0.75;
    let x = distance;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;
    use cnclip_data::store::Store;

    #[test]
    fn a_larger_grid_is_that_of_the_reference() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model");
        let golden = Weights::open(&Store::open(golden).unwrap(), "positions.safetensors").unwrap();
        let golden = golden.to_tensors().unwrap();
        let [small, large] = ["small", "large"].map(|name| &golden[name]);
        let found = resize_positions(small, &large.shape).unwrap();

        for (found, right) in found.values.iter().zip(&large.values) {
            assert!((found - right).abs() < 1e-6, "{found}, expected {right}");
        }
    }

    #[test]
    fn a_grid_of_its_own_size_stays_as_it_is() {
        let values: Vec<f32> = (0..2 * 10).map(|i| (i * i) as f32).collect();
        let positions = Tensor {
            shape: vec![10, 2],
            values,
        };

        assert!(can_resize(&[10, 2], &[17, 2]));
        assert_eq!(resize_positions(&positions, &[10, 2]), Some(positions));
    }

    #[test]
    fn what_is_no_grid_of_the_same_width_is_not_resized() {
        let positions = Tensor {
            shape: vec![5, 2],
            values: vec![0.0; 10],
        };

        for shape in [&[10, 3][..], &[11, 2], &[1, 2], &[10]] {
            assert_eq!(resize_positions(&positions, shape), None, "{shape:?}");
            assert!(!can_resize(&positions.shape, shape), "{shape:?}");
        }

        let no_grid = Tensor {
            shape: vec![4, 2],
            values: vec![0.0; 8],
        };

        assert_eq!(resize_positions(&no_grid, &[10, 2]), None);
    }
}
