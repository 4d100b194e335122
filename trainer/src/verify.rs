//! One training step of the trainer on this machine's device against the same step in candle's
//! autograd on the CPU: features, loss, every gradient, and one step of AdamW. A preflight for new
//! hardware, drivers and builds. Trains nothing and writes no file.

mod compare;
mod diagnosis;
mod engine;
mod memory;
mod oracle;
mod report;
mod synthetic_batch;

use cnclip_compute::device::DeviceError;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::stage::Precision;

use crate::error::{Error, Result};
use crate::model_resolver::{DEFAULT_CONTEXT_LENGTH, ResolvedWeights};
pub use diagnosis::Deviation;
use engine::EngineStep;
use oracle::OracleStep;
pub use report::{Quantity, VerifyReport, VerifyRow};
use synthetic_batch::SyntheticBatch;

/// What a verification computes.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Pairs of an image and a text.
    pub batch: usize,
    /// Random weights, images and texts follow from it.
    pub seed: u64,
    /// The number format of products.
    pub precision: Precision,
}

/// What a verification is doing, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyPhase {
    /// Weights are created or loaded.
    Weights,
    /// The trainer computes features, loss and gradients, and one step of AdamW.
    Engine,
    /// candle computes features and loss.
    OracleForward,
    /// candle computes gradients.
    OracleBackward,
    /// Both are compared.
    Compare,
}

impl VerifyPhase {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// For a progress bar.
    pub fn description(self) -> &'static str {
        match self {
            Self::Weights => "preparing weights",
            Self::Engine => "trainer's step on the device",
            Self::OracleForward => "candle's forward pass on the CPU",
            Self::OracleBackward => "candle's backward pass on the CPU",
            Self::Compare => "comparing",
        }
    }
}

/// Computes one step on synthetic images and texts in `memory`, and again in candle, and compares.
/// Without `weights` they are random.
///
/// # Errors
/// If the model does not fit into memory, its weights do not fit the model, or the device fails.
pub fn verify_model(
    config: &ModelConfig,
    weights: Option<&ResolvedWeights>,
    memory: &Memory,
    options: VerifyOptions,
    mut progress: impl FnMut(VerifyPhase),
) -> Result<VerifyReport> {
    if let Some(problem) = config.validation_error() {
        return Err(Error::Config(problem));
    }

    // Rounding flips rectifiers, and batch normalization of a small batch amplifies it: no bound would tell
    // a fault from that.
    if options.precision == Precision::Bf16 && config.image.resnet.is_some() {
        return Err(Error::Config(format!(
            "{config} cannot be verified in bf16: rounding changes its gradients as much as a fault does. \
             Verify it in fp32."
        )));
    }

    let context = DEFAULT_CONTEXT_LENGTH.min(config.text.positions as usize);
    memory::check_host_memory(config, memory, options.batch, context)?;
    progress(VerifyPhase::Weights);
    let batch = SyntheticBatch::new(config, options.batch, context, options.seed);
    let mut engine = EngineStep::new(config, memory, options, context, weights)
        .map_err(|error| advise_smaller_batch(error, options.batch))?;
    // Copied before the trainer's step, which changes weights and running statistics.
    let oracle = OracleStep::new(config, engine.params())?;

    progress(VerifyPhase::Engine);
    let computed = engine.compute_gradients(&batch)?;
    // Kept as a result: a non-finite gradient becomes a row of the report, beside the tensors that
    // show where it came from.
    let update = engine.update_weights();
    progress(VerifyPhase::OracleForward);
    let forward = oracle.forward(&batch)?;
    progress(VerifyPhase::OracleBackward);
    let gradients = oracle.gradients(&forward)?;

    progress(VerifyPhase::Compare);
    // In the order of the computation, in which the first deviation is searched.
    let mut rows = compare::compare_forward(&computed, &forward, &batch)?;
    rows.extend(compare::compare_gradients(
        engine.params(),
        &gradients,
        config,
    )?);
    rows.extend(compare::compare_running_statistics(
        engine.params(),
        &oracle,
    )?);
    rows.extend(compare::compare_updates(engine.params(), &oracle, update)?);
    memory.synchronize()?;

    Ok(VerifyReport::new(memory, config.to_string(), options, rows))
}

/// A batch that a device has no memory for can be made smaller by the user.
fn advise_smaller_batch(error: Error, batch: usize) -> Error {
    match error {
        Error::Device(fault @ DeviceError::OutOfMemory { .. }) => Error::Config(format!(
            "{fault}. Lower --batch, which is {batch}, or take a device with more memory."
        )),
        other => other,
    }
}
