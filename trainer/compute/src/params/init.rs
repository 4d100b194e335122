//! Initial values: functions of (seed, name, index), so that neither the order of declarations nor the number of
//! threads matters.

use rayon::prelude::*;

use crate::random::{derive_key, mix64, normal_f32, uniform_f32};

/// The distribution of a tensor's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamInit {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All of this value.
    Constant(f32),
    /// Normal around zero with this standard deviation.
    Normal(f32),
    /// Uniform between minus and plus this bound.
    Uniform(f32),
}

impl ParamInit {
    /// The bound that PyTorch gives a linear or convolution layer of `inputs` inputs by default.
    pub fn uniform_fan_in(inputs: usize) -> Self {
        Self::Uniform(1.0 / (inputs as f32).sqrt())
    }

    /// Glorot's bound for a matrix.
    pub fn xavier_uniform(inputs: usize, outputs: usize) -> Self {
        Self::Uniform((6.0 / (inputs + outputs) as f32).sqrt())
    }

    pub(super) fn fill_values(self, seed: u64, name: &str, values: &mut [f32]) {
        // Not by `std::hash`, whose values may change with a release of Rust: a seed has to give
        // the same weights after an upgrade.
        let key = name.bytes().fold(derive_key(seed, 0), |key, byte| {
            mix64(key ^ u64::from(byte))
        });

        let draw = move |index: usize| match self {
            Self::Zeros => 0.0,
            Self::Ones => 1.0,
            Self::Constant(value) => value,
            Self::Normal(deviation) => deviation * normal_f32(derive_key(key, index as u64)),
            Self::Uniform(bound) => {
                bound * (2.0 * uniform_f32(derive_key(key, index as u64)) - 1.0)
            }
        };

        values
            .par_iter_mut()
            .enumerate()
            .for_each(|(index, value)| *value = draw(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(init: ParamInit) -> (f64, f64) {
        let mut values = vec![0.0; 100_000];
        init.fill_values(7, "some.weight", &mut values);
        let mean = |f: fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>() / 1e5;
        (mean(|v| v), mean(|v| v * v).sqrt())
    }

    #[test]
    fn draws_have_the_mean_and_the_deviation_they_promise() {
        let table = [
            (ParamInit::Normal(0.02), 0.02),
            (ParamInit::Uniform(0.3), 0.3 / 3f64.sqrt()),
            (ParamInit::uniform_fan_in(12), 1.0 / 6.0),
            (ParamInit::xavier_uniform(10, 14), 0.5 / 3f64.sqrt()),
        ];

        for (init, deviation) in table {
            let (mean, found) = moments(init);
            assert!(mean.abs() < 0.01 * deviation, "{init:?}: mean {mean}");
            assert!(
                (found / deviation - 1.0).abs() < 0.01,
                "{init:?}: {found} for {deviation}"
            );
        }
    }
}
