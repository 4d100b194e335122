//! Scalar functions and reductions written so that the compiler makes vector code of their loops.

/// Sums that run side by side in one reduction: floating-point addition is not associative, so the compiler
/// does not split a single sum into vector lanes by itself.
const SIMD_LANES: usize = 16;

/// The sum of `f(index, value)`.
#[inline(always)]
pub fn sum_map(values: &[f32], f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut sums = [0f32; SIMD_LANES];
    let tail_start = values.len() / SIMD_LANES * SIMD_LANES;
    for start in (0..tail_start).step_by(SIMD_LANES) {
        let lane = &values[start..start + SIMD_LANES];
        for j in 0..SIMD_LANES {
            sums[j] += f(start + j, lane[j]);
        }
    }

    let tail: f32 = (tail_start..values.len()).map(|i| f(i, values[i])).sum();
    // In a fixed order: the sum depends on the length, and not on the width of the CPU's vectors.
    sums.iter().sum::<f32>() + tail
}

/// The dot product.
#[inline(always)]
pub fn dot_product(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    sum_map(a, |i, value| value * b[i])
}

/// The largest value.
#[inline(always)]
pub fn max_value(values: &[f32]) -> f32 {
    let mut best = [f32::MIN; SIMD_LANES];
    let chunks = values.chunks_exact(SIMD_LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::MIN, f32::max);

    for chunk in chunks {
        for j in 0..SIMD_LANES {
            // A comparison and not `f32::max`, whose rule for NaN costs further instructions.
            best[j] = if chunk[j] > best[j] {
                chunk[j]
            } else {
                best[j]
            };
        }
    }

    best.into_iter().fold(tail, f32::max)
}

/// `sums += values`, for as many as the shorter has.
#[inline(always)]
pub fn add_in_place(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}

/// Softmax: positive numbers that sum to 1.
///
/// ```
/// let mut row = [0.0, 0.0, f32::MIN];
/// cnclip_compute::math::softmax_in_place(&mut row);
/// assert_eq!(row, [0.5, 0.5, 0.0]);
/// ```
pub fn softmax_in_place(row: &mut [f32]) {
    // The largest number is taken from all, which changes no probability: none overflows, and one is e⁰.
    let max = max_value(row);
    row.iter_mut()
        .for_each(|value| *value = fast_exp(*value - max));
    let scale = 1.0 / sum_map(row, |_, value| value);
    row.iter_mut().for_each(|value| *value *= scale);
}

/// e to the power of x, within 3e-7 of the value; 0 below -87, and never above e⁸⁸.
#[inline(always)]
pub fn fast_exp(x: f32) -> f32 {
    // A factor and not a branch, which would keep loops from becoming vector code.
    let underflow = if x < -87.0 { 0.0 } else { 1.0 };
    let x = x.clamp(-87.0, 88.0);
    // e^x = 2^n · e^f with |f| ≤ ln 2 / 2; adding and taking away 1.5·2²³ rounds to an integer, which
    // is then also the low bits of the sum. ln 2 is taken away in two parts to keep f exact.
    const ROUND: f32 = 12_582_912.0;

    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    // Taylor's polynomial of degree six: the next term is below 1.3e-7 for such f.
    let series = f * (1.0 / 720.0) + 1.0 / 120.0;
    let series = f * (f * (f * series + 1.0 / 24.0) + 1.0 / 6.0) + 0.5;
    let series = f * (f * series + 1.0) + 1.0;
    // n is shifted into the exponent's bits and added to the exponent of 1.0.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));

    series * power * underflow
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + fast_exp(-x))
}

/// The normal distribution at x: its cumulative function and its density, within 2e-7.
///
/// # Source
/// Abramowitz and Stegun, formula 7.1.26, for the error function of x/√2.
#[inline(always)]
pub fn normal_cdf_pdf(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = fast_exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = t * (t * (1.061_405_4 * t - 1.453_152) + 1.421_413_7) - 0.284_496_74;
    let half_tail = 0.5 * t * (t * series + 0.254_829_6) * bell;
    // For negative x the tail itself: 1 - (1 - tail) would cancel its digits.
    let cumulative = if x < 0.0 { half_tail } else { 1.0 - half_tail };

    (cumulative, bell * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_the_last_bits_and_dies_at_minus_87() {
        for i in -8600..=8700 {
            let x = i as f32 / 100.0;
            let right = f64::from(x).exp();
            assert!(
                (f64::from(fast_exp(x)) / right - 1.0).abs() < 3e-7,
                "{x}: {} {right}",
                fast_exp(x)
            );
        }

        assert_eq!(
            (fast_exp(-88.0), fast_exp(f32::NEG_INFINITY), fast_exp(0.0)),
            (0.0, 0.0, 1.0)
        );

        assert!(fast_exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_agrees_with_its_integral() {
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let mut integral = 0.0;
        let step = 1e-3;

        for i in -8000..8000 {
            let x = f64::from(i) * step;
            let (cumulative, found) = normal_cdf_pdf(x as f32);
            assert!(
                (f64::from(cumulative) - integral).abs() < 3e-7,
                "{x}: {cumulative} {integral}"
            );

            assert!((f64::from(found) - density(x)).abs() < 1e-7, "{x}: {found}");
            integral +=
                step * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step)) / 6.0;
        }
    }

    #[test]
    fn reductions_count_every_value_once_at_any_length() {
        for length in [0, 1, 15, 16, 17, 40] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 3.0).collect();
            assert_eq!(
                sum_map(&values, |i, v| v + i as f32),
                values.iter().sum::<f32>() * 2.0 + 3.0 * length as f32
            );

            assert_eq!(
                max_value(&values),
                values.iter().copied().fold(f32::MIN, f32::max)
            );

            assert_eq!(
                dot_product(&values, &values),
                values.iter().map(|v| v * v).sum::<f32>()
            );
        }
    }
}
