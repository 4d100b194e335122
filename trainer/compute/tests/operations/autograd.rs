//! The reference for gradients: candle's autograd of the same formula, in fp32 on the CPU.

use candle_core::{Device, Result, Tensor, Var};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::random::{derive_key, normal_f32};

/// Normal numbers; another seed, other numbers.
pub(crate) fn normal_values(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|i| normal_f32(derive_key(seed, i)))
        .collect()
}

/// Normal numbers that are small enough for long sums.
pub(crate) fn small_values(len: usize, seed: u64) -> Vec<f32> {
    normal_values(len, seed)
        .iter()
        .map(|value| 0.1 * value)
        .collect()
}

/// An input whose gradient is computed.
pub(crate) fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_slice(values, shape, &Device::Cpu).unwrap()
}

/// An input without a gradient.
pub(crate) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Channels last to channels first.
pub(crate) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// Channels first to channels last.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// The output of a formula, and the gradients of its inputs given that of the output.
pub(crate) fn autograd(
    inputs: &[&Var],
    dy: &[f32],
    formula: impl Fn() -> Result<Tensor>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let y = formula().unwrap();
    let dy = tensor(dy, y.dims());
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = |input: &&Var| flat(gradients.get(input).unwrap());

    (flat(&y), inputs.iter().map(gradient).collect())
}

/// Fails unless all numbers agree to 2e-5 of the expected one, or of 1 if that is smaller.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error < 2e-5, "{what}[{at}]: {found}, expected {expected}");
    }
}

/// Parameters on the CPU.
pub(crate) struct TestParams {
    pub(crate) values: Vec<f32>,
    /// They start at 1, to show that gradients are added.
    pub(crate) gradients: Vec<f32>,
    pub(crate) buffers: Vec<f32>,
}

/// Random parameters of a layout.
pub(crate) fn random_params(layout: ParamLayout) -> TestParams {
    let params = layout.allocate_params();
    let trained = params.values.len();
    TestParams {
        values: normal_values(trained, 99),
        gradients: vec![1.0; trained],
        buffers: vec![0.0; params.buffers.len()],
    }
}

/// What is expected of gradients that started at 1.
pub(crate) fn plus_one(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value + 1.0).collect()
}
