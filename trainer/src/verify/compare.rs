//! Relative errors, tensor by tensor.

use std::collections::BTreeMap;

use candle_core::Tensor;
use cnclip_compute::params::Params;
use cnclip_crds::model::ModelConfig;
use cnclip_nn::optimizer::NonFiniteGradient;
use cnclip_oracle::TrainingOutput;

use super::engine::EngineForward;
use super::oracle::{OracleStep, flat_values};
use super::report::{Quantity, VerifyRow};
use super::synthetic_batch::SyntheticBatch;
use crate::error::{Error, Result};

/// Below this a tensor counts as zero: a gradient of exactly nothing has no relative error.
const SMALLEST_SCALE: f32 = 1e-12;

/// Share of a gradient's elements whose errors count, behind rectifiers.
const COUNTED_BEHIND_RECTIFIERS: f64 = 0.95;

/// Their tolerance, in units of that of other gradients: what is left of the flips is up to 6.5e-3 in RN50.
const TOLERANCE_BEHIND_RECTIFIERS: f64 = 10.0;

/// Block outputs, features and loss.
pub(super) fn compare_forward(
    engine: &EngineForward,
    oracle: &TrainingOutput,
    batch: &SyntheticBatch,
) -> Result<Vec<VerifyRow>> {
    let mut rows = Vec::new();
    let oracle_blocks = oracle.image.blocks.iter().chain(&oracle.text.blocks);
    for ((name, found), block) in engine.blocks.iter().zip(oracle_blocks) {
        if *name != block.name {
            return Err(Error::Bug(format!(
                "block {name} was compared with {}",
                block.name
            )));
        }

        let expected = in_engine_layout(&block.values, found.len(), batch)?;
        let error = relative_error(found, &expected, 0.0, 1.0);
        rows.push(VerifyRow::new(name, Quantity::Activation, error));
    }

    let features = [
        (
            "image_features",
            &engine.image_features,
            &oracle.image_features,
        ),
        (
            "text_features",
            &engine.text_features,
            &oracle.text_features,
        ),
    ];

    for (name, found, expected) in features {
        let error = relative_error(found, &flat_values(expected)?, 0.0, 1.0);
        rows.push(VerifyRow::new(name, Quantity::Feature, error));
    }

    let expected = oracle.loss.to_scalar::<f32>()?;
    let error = relative_error(&[engine.loss as f32], &[expected], 0.0, 1.0);
    rows.push(VerifyRow::new("loss", Quantity::Loss, error));
    Ok(rows)
}

/// A block's output in the order of the trainer's memory, of `count` numbers.
///
/// The trainer keeps channels last where candle keeps them first, texts without padding, and of the last
/// block of a transformer the first token alone.
fn in_engine_layout(output: &Tensor, count: usize, batch: &SyntheticBatch) -> Result<Vec<f32>> {
    if output.rank() == 4 {
        return flat_values(&output.permute((0, 2, 3, 1))?);
    }

    let (pairs, tokens, width) = output.dims3()?;
    if count == pairs * width {
        return flat_values(&output.narrow(1, 0, 1)?);
    }

    if count == pairs * tokens * width {
        return flat_values(output);
    }

    let values = flat_values(output)?;
    let texts = values.chunks(tokens * width).zip(batch.text_ranges());
    let unpadded = texts.flat_map(|(text, range)| &text[..range.len() * width]);
    Ok(unpadded.copied().collect())
}

/// Every gradient, in the order of the parameters.
///
/// In a ResNet, a value that rounds to the other side of zero before a rectifier has a gradient in one
/// implementation and none in the other. It reaches the gradients of a channel or two, by far more than rounding:
/// so a few of a tensor's elements may deviate there, and the rest count.
pub(super) fn compare_gradients(
    params: &Params,
    expected: &BTreeMap<String, Tensor>,
    config: &ModelConfig,
) -> Result<Vec<VerifyRow>> {
    let is_resnet = config.image.resnet.is_some();
    let has_rectifiers = |name: &str| is_resnet && name.starts_with("visual.");
    let expected_of = |name: &str| match expected.get(name) {
        Some(gradient) => flat_values(gradient),
        None => Err(Error::Bug(format!("candle has no gradient of `{name}`"))),
    };

    let segments = params.segments().iter();
    let rows = segments.map(|segment| {
        let name = &segment.name;
        let found = params.gradients.slice(segment.range.clone()).to_host();
        let scale = match sibling_of_key_bias(name) {
            Some(sibling) => largest_magnitude(&expected_of(&sibling)?),
            None => 0.0,
        };

        let expected = expected_of(name)?;
        if has_rectifiers(name) {
            let error = relative_error(&found, &expected, scale, COUNTED_BEHIND_RECTIFIERS);
            let row = VerifyRow::new(name, Quantity::Gradient, error);
            return Ok(row.with_tolerance_factor(TOLERANCE_BEHIND_RECTIFIERS));
        }

        let error = relative_error(&found, &expected, scale, 1.0);
        Ok(VerifyRow::new(name, Quantity::Gradient, error))
    });

    rows.collect()
}

/// The bias of the values that belong to a bias of keys.
///
/// Softmax does not change when all scores of a query do, so the gradient of a bias of keys is zero but
/// for rounding: its error counts in units of its neighbour's gradient.
fn sibling_of_key_bias(name: &str) -> Option<String> {
    let is_bert = name.ends_with("attention.self.key.bias");
    let is_attention_pool = name.ends_with("attnpool.k_proj.bias");
    match (is_bert, is_attention_pool) {
        (true, _) => Some(name.replace(".key.", ".value.")),
        (_, true) => Some(name.replace("k_proj", "v_proj")),
        _ => None,
    }
}

/// Running means and variances of batch normalization after the step.
pub(super) fn compare_running_statistics(
    params: &Params,
    oracle: &OracleStep,
) -> Result<Vec<VerifyRow>> {
    // candle counts no batches.
    let compared = |name: &str| !name.ends_with("num_batches_tracked");
    let segments = params.buffer_segments().iter();
    let rows = segments.filter(|s| compared(&s.name)).map(|segment| {
        let found = params.buffers.slice(segment.range.clone()).to_host();
        let expected = flat_values(oracle.parameter(&segment.name)?.as_tensor())?;
        let error = relative_error(&found, &expected, 0.0, 1.0);
        Ok(VerifyRow::new(
            &segment.name,
            Quantity::RunningStatistic,
            error,
        ))
    });

    rows.collect()
}

/// What one step of AdamW added to every weight.
///
/// candle's AdamW gets the trainer's gradients, not its own: a first step divides each gradient by its own
/// magnitude, which would make a whole step of the rounding of a gradient that is almost zero.
pub(super) fn compare_updates(
    params: &Params,
    oracle: &OracleStep,
    update: Result<(), NonFiniteGradient>,
) -> Result<Vec<VerifyRow>> {
    if let Err(NonFiniteGradient(name)) = update {
        // No weight was changed, so there are no updates to compare: one failed row replaces them.
        return Ok(vec![VerifyRow::new(&name, Quantity::Update, f64::INFINITY)]);
    }

    let segments = params.segments().iter();
    let rows = segments.map(|segment| {
        let name = &segment.name;
        let gradient = params.gradients.slice(segment.range.clone()).to_host();

        let expected = oracle.update_of(name, &gradient, segment.has_weight_decay())?;
        let before = flat_values(oracle.parameter(name)?.as_tensor())?;
        let after = params.values.slice(segment.range.clone()).to_host();

        let found: Vec<f32> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();

        let error = relative_error(&found, &expected, 0.0, 1.0);
        Ok(VerifyRow::new(name, Quantity::Update, error))
    });

    rows.collect()
}

/// The largest difference, in units of the largest expected value, or of `scale` if that is larger; infinite
/// where a number is not finite or missing. Of both, a share of `counted` counts, the smallest ones.
fn relative_error(found: &[f32], expected: &[f32], scale: f32, counted: f64) -> f64 {
    let all = found.iter().chain(expected);
    if found.len() != expected.len() || !all.clone().all(|value| value.is_finite()) {
        return f64::INFINITY;
    }

    let differences = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs())
        .collect();

    let magnitudes = expected.iter().map(|value| value.abs()).collect();

    let difference = largest_counted(differences, counted);
    let magnitude = largest_counted(magnitudes, counted)
        .max(scale)
        .max(SMALLEST_SCALE);

    f64::from(difference) / f64::from(magnitude)
}

/// The largest of the smallest values that are a share of all; 0 of none.
fn largest_counted(mut magnitudes: Vec<f32>, share: f64) -> f32 {
    // Rounded up: of a single value, that one counts.
    let count = (magnitudes.len() as f64 * share).ceil() as usize;
    let Some(last) = count.checked_sub(1) else {
        return 0.0;
    };

    *magnitudes.select_nth_unstable_by(last, f32::total_cmp).1
}

fn largest_magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_relative_to_the_largest_value_and_infinite_without_numbers() {
        let table: [(&[f32], &[f32], f32, f64); 6] = [
            (&[1.0, 4.0], &[1.0, 4.0], 0.0, 0.0),
            (&[1.5, 4.0], &[1.0, 4.0], 0.0, 0.125),
            (&[0.5], &[0.0], 2.0, 0.25),
            (&[f32::NAN], &[1.0], 0.0, f64::INFINITY),
            (&[1.0], &[f32::INFINITY], 0.0, f64::INFINITY),
            (&[1.0], &[1.0, 2.0], 0.0, f64::INFINITY),
        ];

        for (found, expected, scale, error) in table {
            let computed = relative_error(found, expected, scale, 1.0);
            assert_eq!(computed, error, "{found:?}");
        }
    }

    #[test]
    fn outliers_are_left_out_of_a_share_of_the_differences() {
        let expected = [1.0; 20];
        let mut found = expected;
        found[3] = 9.0;
        assert_eq!(relative_error(&found, &expected, 0.0, 1.0), 8.0);
        assert_eq!(relative_error(&found, &expected, 0.0, 0.95), 0.0);

        found[7] = 1.5;
        assert_eq!(relative_error(&found, &expected, 0.0, 0.95), 0.5);
        assert_eq!(relative_error(&[2.0], &[1.0], 0.0, 0.95), 1.0);
        assert_eq!(relative_error(&[], &[], 0.0, 0.95), 0.0);
    }
}
