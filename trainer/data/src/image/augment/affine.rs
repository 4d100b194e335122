//! Rotates and shears a square about its pixels, bicubic, in double precision as Pillow does.

use std::array;

use crate::image::Rgb;

/// What comes into view from outside the image: CLIP's mean color, which timm fills with.
const FILL_COLOR: Rgb = [123, 117, 104];

/// A pixel in double precision; the fourth channel counts for nothing and fills the vector.
type PixelF64 = [f64; 4];

/// Where a target point lies in the source: `x' = a·x + b·y + c`, `y' = d·x + e·y + f`.
pub(super) type AffineMatrix = [f64; 6];

/// Counter-clockwise about the middle.
pub(super) fn rotation_matrix(degrees: f64, side: usize) -> AffineMatrix {
    // Every operation in the order of Pillow's `Image.rotate`: another order gives other last bits, and
    // with them other pixels where a sample lies near the edge of one.
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let sin = round_15_decimals(angle.sin());
    let cos = round_15_decimals(angle.cos());
    let middle = side as f64 / 2.0;
    let shift = |across: f64, down: f64| across * -middle + down * -middle + 0.0 + middle;

    [cos, sin, shift(cos, sin), -sin, cos, shift(-sin, cos)]
}

pub(super) fn shear_x_matrix(share: f64) -> AffineMatrix {
    [1.0, share, 0.0, 0.0, 1.0, 0.0]
}

/// To 15 decimals, as Pillow rounds its sines: a rotation by 90 degrees then has a cosine of exactly zero.
fn round_15_decimals(value: f64) -> f64 {
    // By way of the decimal digits, because Python's `round` is correctly rounded and a product with 10¹⁵ is
    // not.
    format!("{value:.15}").parse().unwrap_or(value)
}

pub(super) fn affine_transform(square: &[Rgb], side: usize, matrix: AffineMatrix) -> Vec<Rgb> {
    let [a, b, c, d, e, f] = matrix;
    let wide: Vec<PixelF64> = square
        .iter()
        .map(|&[r, g, b]| [r, g, b, 0].map(f64::from))
        .collect();

    let inside = 0.0..side as f64;
    // Pixel centers lie at halves; what is sampled is shifted back by a half below.
    let target = |index: usize| {
        let x = (index % side) as f64 + 0.5;
        let y = (index / side) as f64 + 0.5;
        let source_x = a * x + b * y + c;
        let source_y = d * x + e * y + f;
        let is_inside = inside.contains(&source_x) && inside.contains(&source_y);

        if is_inside {
            sample_bicubic(&wide, side, source_x - 0.5, source_y - 0.5)
        } else {
            FILL_COLOR
        }
    };

    (0..side * side).map(target).collect()
}

/// The cubic through the 4×4 pixels about a point; the border is repeated outwards.
fn sample_bicubic(square: &[PixelF64], side: usize, x: f64, y: f64) -> Rgb {
    let last = side as isize - 1;
    let near = |at: f64| -> [usize; 4] {
        array::from_fn(|i| (at.floor() as isize + i as isize - 1).clamp(0, last) as usize)
    };

    let columns = near(x);
    let rows = near(y);
    let dx = x - x.floor();
    let dy = y - y.floor();
    // Four rows first, then down: Pillow's order, and five cubics instead of eight.
    let across = rows.map(|row| {
        let row = &square[row * side..][..side];
        cubic_interpolate(columns.map(|column| row[column]), dx)
    });

    // Pillow adds no half here, unlike in its resize: the cast cuts off the fraction, and overshoot saturates.
    let [red, green, blue, _] = cubic_interpolate(across, dy).map(|level| level as u8);
    [red, green, blue]
}

/// Between the second and the third of four pixels, at a share of the way: Pillow's cubic, with a = -1.
fn cubic_interpolate(pixels: [PixelF64; 4], share: f64) -> PixelF64 {
    let [p1, p2, p3, p4] = pixels;
    array::from_fn(|c| {
        let v1 = p1[c];
        let v2 = p2[c];
        let v3 = p3[c];
        let v4 = p4[c];
        let bend = 2.0 * (v1 - v2) + v3 - v4;
        let twist = -v1 + v2 - v3 + v4;

        v2 + share * (-v1 + v3 + share * (bend + share * twist))
    })
}
