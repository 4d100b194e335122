//! Gradients by parameter name, and the optimizer.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use candle_core::{Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};

/// The gradient of a scalar for every parameter that it depends on.
///
/// Running statistics of batch normalization are in the map too and have none.
///
/// # Errors
/// If `loss` is no scalar.
pub fn gradients_by_name(parameters: &VarMap, loss: &Tensor) -> Result<BTreeMap<String, Tensor>> {
    let gradients = loss.backward()?;
    let variables = parameters.data().lock();
    let variables = variables.unwrap_or_else(PoisonError::into_inner);
    let mut named = BTreeMap::new();
    for (name, variable) in variables.iter() {
        if let Some(gradient) = gradients.get(variable.as_tensor()) {
            named.insert(name.clone(), gradient.clone());
        }
    }

    Ok(named)
}

/// The first step of AdamW, with moments of zero, on one parameter of the given gradient.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_nn::ParamsAdamW;
///
/// # fn main() -> candle_core::Result<()> {
/// let weight = Var::new(&[1f32, 1.0], &Device::Cpu)?;
/// let gradient = Tensor::new(&[3f32, -0.5], &Device::Cpu)?;
/// let settings = ParamsAdamW {
///     lr: 0.1,
///     weight_decay: 0.0,
///     ..ParamsAdamW::default()
/// };
///
/// // Whatever its size, a gradient first moves a weight by the learning rate.
/// cnclip_oracle::first_adamw_step(&weight, &gradient, settings)?;
/// let moved = weight.to_vec1::<f32>()?;
/// assert!((moved[0] - 0.9).abs() < 1e-6 && (moved[1] - 1.1).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the shapes differ.
pub fn first_adamw_step(weight: &Var, gradient: &Tensor, settings: ParamsAdamW) -> Result<()> {
    let mut optimizer = AdamW::new(vec![weight.clone()], settings)?;
    // candle's optimizer takes gradients from a backward pass alone: this is one that gives `gradient`.
    let objective = (weight.as_tensor() * gradient)?.sum_all()?;
    optimizer.backward_step(&objective)
}
