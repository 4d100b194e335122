//! Rows of logits: their gradients against autograd, and the device against the CPU.

use candle_core::{D, Result, Tensor};
use cnclip_compute::device::DType;
use cnclip_compute::digest::Fingerprint;
use cnclip_compute::ops::contrastive_loss::{
    LogSums, LogitRowStats, LossTargets, logits_to_gradients, row_statistics,
};
use cnclip_compute::tensor::{Memory, TensorView};

use crate::autograd::{assert_close, autograd, normal_values, tensor, var};
use crate::device_under_test::{device_memory, uniform_values};

/// Samples of a global batch, and this rank's.
const GLOBAL_BATCH: usize = 23;
const FIRST: usize = 9;
const ROWS: usize = 6;

/// Samples 3, 9 and 11 have one image; 11, 12 and 20 have one text.
fn samples() -> Vec<Fingerprint> {
    let sample = |i: u64| Fingerprint {
        image: if [9, 11].contains(&i) { 3 } else { i },
        text: if [12, 20].contains(&i) { 11 } else { i },
    };

    (0..GLOBAL_BATCH as u64).map(sample).collect()
}

fn targets_in(memory: &Memory) -> LossTargets {
    let mut targets = LossTargets::new_in(memory, GLOBAL_BATCH, ROWS);
    targets.matches.match_equal(&samples());
    targets.upload_matches(GLOBAL_BATCH);
    targets
}

/// The target probabilities of all samples: `[global batch, global batch]`.
fn target_matrix() -> Vec<f32> {
    let samples = samples();
    let rows = samples.iter().map(|own| {
        let matches = |other: &Fingerprint| own.image == other.image || own.text == other.text;
        let row: Vec<f32> = samples
            .iter()
            .map(|other| f32::from(u8::from(matches(other))))
            .collect();

        let count: f32 = row.iter().sum();
        row.into_iter().map(|target| target / count).collect::<Vec<_>>()
    });

    rows.flatten().collect()
}

/// What both functions write.
struct Outputs {
    row_stats: Vec<LogitRowStats>,
    gradients: Vec<f32>,
    scale_gradients: Vec<f32>,
}

fn compute(memory: &Memory, logits: &[f32], log_sums: LogSums<&[f32]>) -> Outputs {
    let mut targets = targets_in(memory);
    let mut array = memory.alloc_f32(logits.len());
    array.copy_from(TensorView::Host(logits));
    let mut row_stats = vec![LogitRowStats::default(); ROWS];
    row_statistics(array.view(), FIRST, GLOBAL_BATCH, &mut targets, &mut row_stats);

    let mut scale_gradients = vec![9.0; ROWS];
    let view = array.view_mut();
    logits_to_gradients(view, FIRST, log_sums, &mut targets, &mut scale_gradients);
    targets.download_scale_gradients(&mut scale_gradients);

    Outputs {
        row_stats,
        gradients: array.to_host().into_owned(),
        scale_gradients,
    }
}

/// ln Σ eˣ over the last dimension.
fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    x.exp()?.sum_keepdim(D::Minus1)?.log()
}

/// Mean of both cross-entropies of a matrix of logits.
fn contrastive_loss(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let cross_entropy = |logits: &Tensor| {
        let log_softmax = logits.broadcast_sub(&log_sum_exp(logits)?)?;
        (log_softmax * targets)?.sum_all()? / -(GLOBAL_BATCH as f64)
    };

    (cross_entropy(logits)? + cross_entropy(&logits.t()?.contiguous()?)?)? / 2.0
}

#[test]
fn statistics_and_gradients_of_logits_are_candles() {
    let all = normal_values(GLOBAL_BATCH * GLOBAL_BATCH, 1);
    let shape = [GLOBAL_BATCH, GLOBAL_BATCH];
    let logits = var(&all, &shape);
    let targets = tensor(&target_matrix(), &shape);
    let (_, d) = autograd(&[&logits], &[1.0], || {
        contrastive_loss(&logits, &targets)?.reshape(1)
    });

    let sums_of = |x: &Tensor| -> Vec<f32> {
        let sums = log_sum_exp(x).unwrap().flatten_all().unwrap();
        sums.to_vec1().unwrap()
    };

    let rows = sums_of(&logits);
    let columns = sums_of(&logits.t().unwrap().contiguous().unwrap());
    let log_sums = LogSums {
        rows: rows.as_slice(),
        columns: columns.as_slice(),
    };

    let own = FIRST * GLOBAL_BATCH..(FIRST + ROWS) * GLOBAL_BATCH;
    let found = compute(&Memory::Host, &all[own.clone()], log_sums);
    assert_close("gradients", &found.gradients, &d[0][own.clone()]);

    for (row, stats) in found.row_stats.iter().enumerate() {
        assert_close("log-sum", &[stats.log_sum], &[rows[FIRST + row]]);
        // The scale multiplies every logit.
        let logits = &all[own.clone()][row * GLOBAL_BATCH..][..GLOBAL_BATCH];
        let gradients = &d[0][own.clone()][row * GLOBAL_BATCH..][..GLOBAL_BATCH];
        let expected: f32 = logits.iter().zip(gradients).map(|(x, dx)| x * dx).sum();
        assert_close("scale", &[found.scale_gradients[row]], &[expected]);
    }
}

#[test]
fn statistics_and_gradients_on_a_device_are_the_cpus() {
    let logits = uniform_values(ROWS * GLOBAL_BATCH, 1, DType::F32);
    // Any will do, as long as no softmax is over one.
    let rows: Vec<f32> = uniform_values(GLOBAL_BATCH, 2, DType::F32);
    let rows: Vec<f32> = rows.iter().map(|sum| 4.0 + sum).collect();
    let columns: Vec<f32> = rows.iter().rev().copied().collect();
    let log_sums = LogSums {
        rows: rows.as_slice(),
        columns: columns.as_slice(),
    };

    let host = compute(&Memory::Host, &logits, log_sums);
    let device = compute(&device_memory(DType::F32), &logits, log_sums);
    assert_close("gradients", &device.gradients, &host.gradients);
    assert_close("scale", &device.scale_gradients, &host.scale_gradients);

    for (found, expected) in device.row_stats.iter().zip(&host.row_stats) {
        assert_close("log-sum", &[found.log_sum], &[expected.log_sum]);
        let cross_entropy = |stats: &LogitRowStats| [stats.cross_entropy as f32];
        assert_close("cross-entropy", &cross_entropy(found), &cross_entropy(expected));
        assert_eq!(found.is_hit, expected.is_hit);
    }
}
