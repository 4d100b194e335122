//! Resizes a region of an image to a square as Pillow does, to the last bit.
//!
//! Bicubic with antialiasing in fixed point: across first, rounded to bytes, then down. The aspect ratio is not
//! kept.
//!
//! # Source
//! `ImagingResample` in Pillow's `Resample.c`.

/// Bits of fraction in a weight: what is left of 32 after 8 of a level and 2 of overshoot. Pillow's number, so
/// that every rounding is Pillow's too.
const FRACTION_BITS: u32 = 22;
/// Half a level, from which sums start: the shift at the end cuts off, and so rounds.
const ROUNDING_HALF: i32 = 1 << (FRACTION_BITS - 1);
/// Half the width of the cubic, in pixels of the coarser grid.
const CUBIC_RADIUS: f64 = 2.0;

/// Rows that are resized together: 16 sums of 32 bits fill the widest vector registers.
const ROWS_PER_BAND: usize = 16;

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRegion {
    /// Pixels left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Pixels in a row of it.
    pub width: usize,
    /// Rows of it.
    pub height: usize,
}

/// A region of interleaved pixels.
///
/// ```
/// use cnclip_data::image::resize::{PixelRegion, PixelView};
///
/// let pixels = [[0u8], [100], [200], [50]];
/// let view = PixelView {
///     pixels: &pixels,
///     row_stride: 2,
///     region: PixelRegion { left: 0, top: 0, width: 2, height: 2 },
/// };
///
/// assert_eq!(view.resize_bicubic(2), pixels, "what fits already is left as it is");
/// assert_eq!(view.resize_bicubic(1), [[88]], "the mean of all pixels, rounded twice");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PixelView<'a, T, const C: usize> {
    /// The pixels of the whole image.
    pub pixels: &'a [[T; C]],
    /// Pixels from one row to the next.
    pub row_stride: usize,
    /// The part that is read.
    pub region: PixelRegion,
}

impl<'a, T: Copy, const C: usize> PixelView<'a, T, C> {
    fn pixel_row(&self, y: usize) -> &'a [[T; C]] {
        let start = (self.region.top + y) * self.row_stride + self.region.left;
        &self.pixels[start..start + self.region.width]
    }

    /// The rows themselves, nothing resized.
    pub fn to_pixels(&self) -> Vec<[T; C]> {
        (0..self.region.height)
            .flat_map(|y| self.pixel_row(y))
            .copied()
            .collect()
    }

    /// Each pixel is the nearest one: no two are mixed.
    pub fn resize_nearest(&self, side: usize) -> Vec<[T; C]> {
        let columns = nearest_indices(self.region.width, side);
        let pick = |y| columns.iter().map(move |&x| self.pixel_row(y)[x]);
        nearest_indices(self.region.height, side)
            .into_iter()
            .flat_map(pick)
            .collect()
    }
}

impl<const C: usize> PixelView<'_, u8, C> {
    /// The region as a square, bicubic. An axis that fits already is left as it is.
    ///
    /// # Shapes
    /// `[side, side]` pixels of `C` channels.
    pub fn resize_bicubic(&self, side: usize) -> Vec<[u8; C]> {
        let PixelRegion { width, height, .. } = self.region;
        // Pillow skips a pass that changes no size; a pass with weights of one would give the same bytes.
        let rows = if width == side {
            self.to_pixels()
        } else {
            self.resize_rows(side)
        };

        resize_columns(&rows, side, height)
    }

    /// Every row resized. A band of rows goes together, so that a vector of sums is full.
    fn resize_rows(&self, side: usize) -> Vec<[u8; C]> {
        let PixelRegion { width, height, .. } = self.region;
        let taps = FilterTaps::new(width, side).into_fixed_point();
        let mut rows = vec![[0; C]; height * side];
        // Transposed, so that the rows of a band lie beside each other: the loop over rows is then one vector
        // instruction, whatever the weights of this column are.
        let mut band = vec![[[0; C]; ROWS_PER_BAND]; width];

        for (first, rows) in (0..)
            .step_by(ROWS_PER_BAND)
            .zip(rows.chunks_mut(side * ROWS_PER_BAND))
        {
            for y in 0..rows.len() / side {
                for (column, &pixel) in band.iter_mut().zip(self.pixel_row(first + y)) {
                    column[y] = pixel;
                }
            }

            for (x, (start, weights)) in taps.iter().enumerate() {
                let column = weighted_column(&band[start..], weights);
                for (row, pixel) in rows.chunks_exact_mut(side).zip(column) {
                    row[x] = pixel;
                }
            }
        }

        rows
    }
}

impl PixelView<'_, u16, 1> {
    /// The region as a square, bicubic, in double precision: 16 bits of level leave too few for the weights.
    pub fn resize_bicubic(&self, side: usize) -> Vec<u16> {
        let PixelRegion { width, height, .. } = self.region;
        let rows = resize_rows_u16(self.to_pixels().as_flattened(), width, side);
        let columns = resize_rows_u16(&transpose_pixels(&rows, side), height, side);
        transpose_pixels(&columns, side)
    }
}

/// One target column of a band out of the source columns under it.
fn weighted_column<const C: usize>(
    columns: &[[[u8; C]; ROWS_PER_BAND]],
    weights: &[i32],
) -> [[u8; C]; ROWS_PER_BAND] {
    let mut sums = [[ROUNDING_HALF; C]; ROWS_PER_BAND];
    for (column, weight) in columns.iter().zip(weights) {
        for (sum, &level) in sums
            .as_flattened_mut()
            .iter_mut()
            .zip(column.as_flattened())
        {
            *sum += i32::from(level) * weight;
        }
    }

    sums.map(|pixel| pixel.map(clamp_to_u8))
}

/// Every column at once: a row of sums takes whole source rows.
fn resize_columns<const C: usize>(source: &[[u8; C]], side: usize, height: usize) -> Vec<[u8; C]> {
    if height == side {
        return source.to_vec();
    }

    // Rows are contiguous already, so this pass needs no bands: every weight goes to a whole row of sums.
    let taps = FilterTaps::new(height, side).into_fixed_point();
    let mut sums = vec![ROUNDING_HALF; side * C];
    let mut square = vec![[0; C]; side * side];

    for (row, (start, weights)) in square.chunks_exact_mut(side).zip(taps.iter()) {
        sums.fill(ROUNDING_HALF);
        for (source, weight) in source[start * side..].chunks_exact(side).zip(weights) {
            for (sum, &level) in sums.iter_mut().zip(source.as_flattened()) {
                *sum += i32::from(level) * weight;
            }
        }

        for (target, &sum) in row.as_flattened_mut().iter_mut().zip(&sums) {
            *target = clamp_to_u8(sum);
        }
    }

    square
}

fn resize_rows_u16(source: &[u16], width: usize, side: usize) -> Vec<u16> {
    if width == side {
        return source.to_vec();
    }

    let taps = FilterTaps::new(width, side);
    let sum = |row: &[u16], (start, weights): (usize, &[f64])| {
        let taken = row[start..].iter().zip(weights);
        clamp_to_u16(
            taken
                .map(|(&level, weight)| f64::from(level) * weight)
                .sum(),
        )
    };

    let rows = source.chunks_exact(width);
    rows.flat_map(|row| taps.iter().map(move |tap| sum(row, tap)))
        .collect()
}

fn transpose_pixels(source: &[u16], width: usize) -> Vec<u16> {
    let column = |x| source.iter().skip(x).step_by(width).copied();
    (0..width).flat_map(column).collect()
}

fn clamp_to_u8(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Rounds half away from zero, then limits the two bytes apart, as Pillow does: overshoot above 65,535 keeps its
/// low byte, which is a fault of Pillow that the reference's pixels have too.
fn clamp_to_u16(sum: f64) -> u16 {
    let level = sum.round() as i32;
    let low = (level % 256).max(0);
    let high = (level >> 8).clamp(0, 255);
    (high << 8 | low) as u16
}

/// Which source pixels make each target pixel, and with what weight.
struct FilterTaps<W> {
    starts: Vec<usize>,
    /// The same number for every target, zeros at the end.
    weights: Vec<W>,
    count: usize,
}

impl<W> FilterTaps<W> {
    /// For every target the first source pixel and the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[W])> {
        self.starts
            .iter()
            .copied()
            .zip(self.weights.chunks_exact(self.count))
    }
}

impl FilterTaps<f64> {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        // Only when shrinking the cubic is widened, which averages (antialiasing); when enlarging it is not.
        let stretch = scale.max(1.0);
        let reach = CUBIC_RADIUS * stretch;
        let count = reach.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::new(),
            weights: vec![0.0; count * output],
            count,
        };

        for (target, weights) in taps.weights.chunks_exact_mut(count).enumerate() {
            let center = (target as f64 + 0.5) * scale;
            // A cast of a negative number is zero: nothing lies left of the image.
            let start = (center - reach + 0.5) as usize;
            let end = ((center + reach + 0.5) as usize).min(input);
            let weights = &mut weights[..end - start];

            for (source, weight) in (start..).zip(weights.iter_mut()) {
                *weight = cubic_kernel((source as f64 - center + 0.5) * (1.0 / stretch));
            }

            // At the border the cubic is cut off; the weights that are left must still add up to one.
            let total: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= total);
            taps.starts.push(start);
        }

        taps
    }

    /// Rounds half away from zero, as Pillow does; the weights of a target may then miss one by a few units.
    fn into_fixed_point(self) -> FilterTaps<i32> {
        let one = f64::from(1 << FRACTION_BITS);
        let weights = self
            .weights
            .iter()
            .map(|weight| (weight * one).round() as i32)
            .collect();

        FilterTaps {
            starts: self.starts,
            weights,
            count: self.count,
        }
    }
}

/// Keys' cubic convolution with a = -1/2, as Pillow's `BICUBIC` (OpenCV takes -3/4).
fn cubic_kernel(distance: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    } else {
        0.0
    }
}

/// The source pixel under the middle of each target pixel, by adding the step up as Pillow does.
fn nearest_indices(input: usize, output: usize) -> Vec<usize> {
    // Added up and not multiplied: the error that adds up decides ties, and so is part of the result.
    let step = input as f64 / output as f64;
    let middles = std::iter::successors(Some(step * 0.5), |middle| Some(middle + step));
    middles
        .take(output)
        .map(|middle| (middle as usize).min(input - 1))
        .collect()
}

#[cfg(test)]
mod tests;
