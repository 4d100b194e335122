//! Brings a region of a picture to a square as Pillow does, to the last bit.
//!
//! Bicubic with antialiasing in fixed point: across first, rounded to bytes, then down. It never
//! keeps the aspect ratio: what does not fit is squashed.

#[cfg(test)]
mod tests;

/// What is left of 32 bits beside 8 of a level and 2 of overshoot.
const FRACTION_BITS: u32 = 22;
/// Half a level: the sums are cut, not rounded.
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// How far the cubic reaches, in pixels of the coarser side.
const REACH: f64 = 2.0;

/// Rows that are resized together.
const BAND: usize = 16;

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Pixels left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Pixels in a row of it.
    pub width: usize,
    /// Rows of it.
    pub height: usize,
}

/// A region of interleaved pixels that lie in rows of `pitch` pixels.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T, const C: usize> {
    /// The pixels of the whole picture.
    pub pixels: &'a [[T; C]],
    /// Pixels from one row to the next.
    pub pitch: usize,
    /// What is looked at.
    pub region: Region,
}

impl<'a, T: Copy, const C: usize> View<'a, T, C> {
    fn row(&self, y: usize) -> &'a [[T; C]] {
        let start = (self.region.top + y) * self.pitch + self.region.left;
        &self.pixels[start..start + self.region.width]
    }

    /// The rows themselves, nothing resized.
    pub fn copied(&self) -> Vec<[T; C]> {
        (0..self.region.height)
            .flat_map(|y| self.row(y))
            .copied()
            .collect()
    }

    /// Each pixel is the nearest one: no two are mixed.
    pub fn nearest(&self, side: usize) -> Vec<[T; C]> {
        let columns = nearest(self.region.width, side);
        let pick = |y| columns.iter().map(move |&x| self.row(y)[x]);
        nearest(self.region.height, side)
            .into_iter()
            .flat_map(pick)
            .collect()
    }
}

impl<const C: usize> View<'_, u8, C> {
    /// The region as a square, bicubic. An axis that fits already is left as it is.
    ///
    /// # Shapes
    /// `[side, side]` pixels of `C` channels.
    pub fn bicubic(&self, side: usize) -> Vec<[u8; C]> {
        let Region { width, height, .. } = self.region;
        let rows = if width == side {
            self.copied()
        } else {
            self.across(side)
        };

        down(&rows, side, height)
    }

    /// Every row resized. A band of rows goes together, so that a vector of sums is full.
    fn across(&self, side: usize) -> Vec<[u8; C]> {
        let Region { width, height, .. } = self.region;
        let taps = Taps::new(width, side).fixed();
        let mut rows = vec![[0; C]; height * side];
        let mut band = vec![[[0; C]; BAND]; width];

        for (first, rows) in (0..).step_by(BAND).zip(rows.chunks_mut(side * BAND)) {
            for y in 0..rows.len() / side {
                for (column, &pixel) in band.iter_mut().zip(self.row(first + y)) {
                    column[y] = pixel;
                }
            }

            for (x, (start, weights)) in taps.iter().enumerate() {
                let column = mixed(&band[start..], weights);
                for (row, pixel) in rows.chunks_exact_mut(side).zip(column) {
                    row[x] = pixel;
                }
            }
        }

        rows
    }
}

impl View<'_, u16, 1> {
    /// The region as a square, bicubic, in floating point: 16 bits leave no room for fixed point.
    pub fn bicubic(&self, side: usize) -> Vec<u16> {
        let Region { width, height, .. } = self.region;
        let rows = across_wide(self.copied().as_flattened(), width, side);
        let columns = across_wide(&transposed(&rows, side), height, side);
        transposed(&columns, side)
    }
}

/// One target column of a band out of the source columns under it.
fn mixed<const C: usize>(columns: &[[[u8; C]; BAND]], weights: &[i32]) -> [[u8; C]; BAND] {
    let mut sums = [[HALF; C]; BAND];
    for (column, weight) in columns.iter().zip(weights) {
        for (sum, &level) in sums
            .as_flattened_mut()
            .iter_mut()
            .zip(column.as_flattened())
        {
            *sum += i32::from(level) * weight;
        }
    }

    sums.map(|pixel| pixel.map(byte))
}

/// Every column at once: a row of sums takes whole source rows.
fn down<const C: usize>(source: &[[u8; C]], side: usize, height: usize) -> Vec<[u8; C]> {
    if height == side {
        return source.to_vec();
    }

    let taps = Taps::new(height, side).fixed();
    let mut sums = vec![HALF; side * C];
    let mut square = vec![[0; C]; side * side];

    for (row, (start, weights)) in square.chunks_exact_mut(side).zip(taps.iter()) {
        sums.fill(HALF);
        for (source, weight) in source[start * side..].chunks_exact(side).zip(weights) {
            for (sum, &level) in sums.iter_mut().zip(source.as_flattened()) {
                *sum += i32::from(level) * weight;
            }
        }

        for (target, &sum) in row.as_flattened_mut().iter_mut().zip(&sums) {
            *target = byte(sum);
        }
    }

    square
}

fn across_wide(source: &[u16], width: usize, side: usize) -> Vec<u16> {
    if width == side {
        return source.to_vec();
    }

    let taps = Taps::new(width, side);
    let sum = |row: &[u16], (start, weights): (usize, &[f64])| {
        let taken = row[start..].iter().zip(weights);
        word(
            taken
                .map(|(&level, weight)| f64::from(level) * weight)
                .sum(),
        )
    };

    let rows = source.chunks_exact(width);
    rows.flat_map(|row| taps.iter().map(move |tap| sum(row, tap)))
        .collect()
}

fn transposed(source: &[u16], width: usize) -> Vec<u16> {
    let column = |x| source.iter().skip(x).step_by(width).copied();
    (0..width).flat_map(column).collect()
}

fn byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Rounds half away from zero, then limits the two bytes of the word apart, as Pillow does.
fn word(sum: f64) -> u16 {
    let level = sum.round() as i32;
    let low = (level % 256).max(0);
    let high = (level >> 8).clamp(0, 255);
    (high << 8 | low) as u16
}

/// Which source pixels make each target pixel, and with what weight.
struct Taps<W> {
    starts: Vec<usize>,
    /// The same number for every target, zeros at the end.
    weights: Vec<W>,
    count: usize,
}

impl<W> Taps<W> {
    /// For every target the first source pixel and the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[W])> {
        self.starts
            .iter()
            .copied()
            .zip(self.weights.chunks_exact(self.count))
    }
}

impl Taps<f64> {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let reach = REACH * stretch;
        let count = reach.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::new(),
            weights: vec![0.0; count * output],
            count,
        };

        for (target, weights) in taps.weights.chunks_exact_mut(count).enumerate() {
            let centre = (target as f64 + 0.5) * scale;
            let start = (centre - reach + 0.5) as usize;
            let end = ((centre + reach + 0.5) as usize).min(input);
            let weights = &mut weights[..end - start];

            for (source, weight) in (start..).zip(weights.iter_mut()) {
                *weight = cubic((source as f64 - centre + 0.5) * (1.0 / stretch));
            }

            let total: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= total);
            taps.starts.push(start);
        }

        taps
    }

    fn fixed(self) -> Taps<i32> {
        let one = f64::from(1 << FRACTION_BITS);
        let weights = self
            .weights
            .iter()
            .map(|weight| (weight * one).round() as i32)
            .collect();

        Taps {
            starts: self.starts,
            weights,
            count: self.count,
        }
    }
}

/// Keys' cubic convolution with a = -1/2.
fn cubic(distance: f64) -> f64 {
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
fn nearest(input: usize, output: usize) -> Vec<usize> {
    let step = input as f64 / output as f64;
    let middles = std::iter::successors(Some(step * 0.5), |middle| Some(middle + step));
    middles
        .take(output)
        .map(|middle| (middle as usize).min(input - 1))
        .collect()
}
