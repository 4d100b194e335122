//! What candle's autograd says of a formula, and the made-up numbers it is asked about.

use candle_core::{Device, Result, Tensor, Var};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::random::{derive_key, normal_f32};

pub(crate) fn random_values(length: usize, seed: u64) -> Vec<f32> {
    (0..length as u64)
        .map(|i| normal_f32(derive_key(seed, i)))
        .collect()
}

pub(crate) fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_slice(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The output of a formula, and the gradients of its inputs given that of the output.
pub(crate) fn oracle(
    inputs: &[&Var],
    dy: &[f32],
    formula: impl Fn() -> Result<Tensor>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let y = formula().unwrap();
    let dy = tensor(dy, y.dims());
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    (
        flat(&y),
        inputs
            .iter()
            .map(|input| flat(gradients.get(input).unwrap()))
            .collect(),
    )
}

pub(crate) fn assert_close(what: &str, found: &[f32], right: &[f32]) {
    assert_eq!(found.len(), right.len(), "{what}");
    for (at, (found, right)) in found.iter().zip(right).enumerate() {
        let error = (found - right).abs() / right.abs().max(1.0);
        assert!(error < 2e-5, "{what}[{at}]: {found}, expected {right}");
    }
}

/// Parameters in this machine's memory.
pub(crate) struct OracleParams {
    pub(crate) values: Vec<f32>,
    pub(crate) gradients: Vec<f32>,
    #[allow(dead_code, reason = "batch normalisation alone has one")]
    pub(crate) state: Vec<f32>,
}

/// Parameters with these values, and gradients that start at 1 to show that they are added to.
pub(crate) fn params(layout: ParamLayout) -> OracleParams {
    let params = layout.allocate_params();
    let trained = params.values.len();
    let state = params.buffers.len();
    OracleParams {
        values: random_values(trained, 99),
        gradients: vec![1.0; trained],
        state: vec![0.0; state],
    }
}

pub(crate) fn plus_one(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value + 1.0).collect()
}
