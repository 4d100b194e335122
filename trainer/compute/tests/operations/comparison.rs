//! Runs an operation in either memory and compares what it wrote.

use cnclip_compute::device::DType;
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_crds::stage::Precision;

use crate::device_under_test::{
    DEVICE, DTYPES, assert_relative, device_memory, round_to_dtype, uniform_values,
};

/// Where an operation is run, and in which format its numbers are given.
pub(crate) struct Setup {
    pub(crate) memory: Memory,
    dtype: DType,
}

impl Setup {
    /// Activations.
    pub(crate) fn activations(&self, len: usize, seed: u64) -> Tensor {
        let values = uniform_values(len, seed, self.dtype);
        filled(self.memory.alloc_activations(len), &values)
    }

    /// Activations around another mean.
    pub(crate) fn shifted_activations(&self, len: usize, seed: u64, mean: f32) -> Tensor {
        // Rounded here as well, so that both memories start with the same numbers.
        let values: Vec<f32> = uniform_values(len, seed, self.dtype)
            .iter()
            .map(|value| round_to_dtype(value + mean, self.dtype))
            .collect();

        filled(self.memory.alloc_activations(len), &values)
    }

    /// Weights, as a product rounds them.
    pub(crate) fn weights(&self, len: usize, seed: u64) -> Tensor {
        let values = uniform_values(len, seed, DType::Bf16);
        filled(self.memory.alloc_weights(len), &values)
    }

    /// Gradients of weights, or statistics.
    pub(crate) fn f32s(&self, len: usize, seed: u64) -> Tensor {
        let values = uniform_values(len, seed, DType::F32);
        filled(self.memory.alloc_f32(len), &values)
    }

    pub(crate) fn layout(&self) -> ParamLayout {
        ParamLayout::new(Precision::Fp32).with_memory(&self.memory)
    }
}

fn filled(mut tensor: Tensor, values: &[f32]) -> Tensor {
    tensor.copy_from(TensorView::Host(values));
    tensor
}

/// Fails unless the device writes what the CPU writes: each array to so many roundings to bfloat16, or to
/// 1e-5 of its largest number.
pub(crate) fn compare<const N: usize>(
    what: &str,
    outputs: [(&str, f32); N],
    run: impl Fn(&Setup) -> [Tensor; N],
) {
    for dtype in DTYPES {
        let setup = |memory| Setup { memory, dtype };
        let expected = run(&setup(Memory::Host));
        let found = run(&setup(device_memory(dtype)));
        DEVICE.synchronize().unwrap();

        for ((name, roundings), (found, expected)) in
            outputs.iter().zip(found.iter().zip(&expected))
        {
            let rounding = if dtype == DType::Bf16 {
                roundings / 256.0
            } else {
                1e-5
            };

            let what = format!("{what}, {name}, {dtype:?}");
            let tolerance = rounding.max(1e-5);
            assert_relative(&what, &found.to_host(), &expected.to_host(), tolerance);
        }
    }
}
