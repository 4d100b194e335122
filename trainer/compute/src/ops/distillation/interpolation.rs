//! Linear interpolation of a vector to another width.

/// For each output the two inputs that it lies between.
#[derive(Debug)]
pub(super) struct LinearInterpolation {
    pub(super) width: usize,
    pub(super) taps: Vec<InterpolationTap>,
}

/// The two neighbours of an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct InterpolationTap {
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) right_weight: f32,
}

impl LinearInterpolation {
    pub(super) fn new(width: usize, output_width: usize) -> Self {
        let tap = |output: usize| {
            // Half-pixel centres: what `align_corners=False` means. Outputs before the first input's centre, or
            // behind the last one's, repeat that input.
            let position = (output as f64 + 0.5) * width as f64 / output_width as f64 - 0.5;
            let left = position.max(0.0) as usize;
            InterpolationTap {
                left,
                right: (left + 1).min(width - 1),
                right_weight: (position.max(0.0) - left as f64) as f32,
            }
        };

        Self {
            width,
            taps: (0..output_width).map(tap).collect(),
        }
    }

    pub(super) fn forward(&self, x: &[f32], y: &mut [f32]) {
        for (y, tap) in y.iter_mut().zip(&self.taps) {
            let weight = tap.right_weight;
            *y = (1.0 - weight) * x[tap.left] + weight * x[tap.right];
        }
    }

    /// Adds to the gradient of `x`.
    pub(super) fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        for (dy, tap) in dy.iter().zip(&self.taps) {
            let weight = tap.right_weight;
            dx[tap.left] += (1.0 - weight) * dy;
            dx[tap.right] += weight * dy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_interpolated_as_pytorch_does() {
        // F.interpolate([1, 4, 9, -2, 5], mode="bilinear", align_corners=False)
        let rows: [&[f32]; 4] = [
            &[1.0, 2.714286, 5.428572, 9.0, 1.142856, 1.0, 5.0],
            &[2.0, 9.0, 2.666666],
            &[1.0, 4.0, 9.0, -2.0, 5.0],
            &[
                1.0, 1.545455, 2.909091, 4.454545, 6.727273, 9.0, 4.0, -1.0, 0.545455, 3.727274,
                5.0,
            ],
        ];

        for right in rows {
            let mut found = vec![9.0; right.len()];
            LinearInterpolation::new(5, right.len())
                .forward(&[1.0, 4.0, 9.0, -2.0, 5.0], &mut found);
            for (found, right) in found.iter().zip(right) {
                assert!((found - right).abs() < 1e-5, "{found} for {right}");
            }
        }
    }
}
