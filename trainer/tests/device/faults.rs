//! Runs whose device fails or has too little memory, and runs that resume.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cnclip::error::{Error, Result};
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage_with_memory;
use cnclip_compute::device::{Device, DeviceError};
use cnclip_compute::tensor::Memory;
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::report::ProgressReport;
use cnclip_crds::stage::{MicroBatch, Precision};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_emulator::Emulator;

use crate::same::{assert_same, losses};
use crate::support::{is_emulated, open};
use crate::{small, train};

const PLENTY: u64 = 1 << 34;

/// Trains on the devices that `device` returns, until `stop` is true.
fn run(
    config: &TrainConfig,
    device: &(dyn Fn(usize) -> Device + Sync),
    stop: impl Fn() -> bool,
) -> (Result<()>, ProgressReport) {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let memory = |rank| Ok(Memory::Device(device(rank), Precision::Fp32));
    let result = train_stage_with_memory(config, &reporter, stop, &memory);
    (result, reporter.current_report())
}

fn run_to_end(config: &TrainConfig, device: &(dyn Fn(usize) -> Device + Sync)) -> ProgressReport {
    let (result, report) = run(config, device, || false);
    result.unwrap();
    report
}

/// A run with an EMA, dropout, masked patches and a checkpoint after every third step.
fn config(folder: &Path, name: &str) -> TrainConfig {
    train::config(folder, name, false)
}

/// Fails unless a run ended with the weights of another: to the last bit, unless a GPU adds in any order.
fn assert_ends_as(
    folder: &Path,
    name: &str,
    found: &ProgressReport,
    other: &str,
    right: &ProgressReport,
) {
    if is_emulated() {
        let weights = [name, other].map(|name| small::final_weights(folder, name));
        assert!(
            weights[0] == weights[1],
            "{name} ends with other weights than {other}"
        );

        assert_eq!(
            (found.loss, found.validation),
            (right.loss, right.validation)
        );
    }

    assert_same(folder, (name, found), (other, right));
}

#[test]
fn a_run_that_stops_on_a_device_resumes_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let right = run_to_end(&config(folder, "straight"), &|_| open());
    let stopped = config(folder, "stopped");
    let steps = AtomicU64::new(0);
    let (result, _) = run(&stopped, &|_| open(), || {
        steps.fetch_add(1, Ordering::Relaxed) == 3
    });

    assert!(
        matches!(result, Err(Error::Interrupted { step: 4 })),
        "{result:?}"
    );

    let found = run_to_end(&stopped, &|_| open());
    assert_ends_as(folder, "stopped", &found, "straight", &right);
}

#[test]
fn a_device_that_fails_ends_a_run_which_resumes_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let right = run_to_end(&config(folder, "straight"), &|_| {
        Emulator::failing_after(PLENTY, left.clone())
    });

    let calls = u64::MAX - left.load(Ordering::Relaxed);
    for (percent, checkpoints) in [(2, 0), (60, 1), (99, 2)] {
        let name = format!("broken-{percent}");
        let broken = config(folder, &name);
        let left = Arc::new(AtomicU64::new(calls * percent / 100));
        let device = |_| Emulator::failing_after(PLENTY, left.clone());
        let (result, report) = run(&broken, &device, || false);
        let error = result.unwrap_err();

        assert_eq!(error.exit_code(), TrainerExit::Retry, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("cannot use an emulated device: it broke"),
            "{error}"
        );

        assert!(report.loss.is_none_or(|loss| loss > 0.0), "{report:?}");
        let has_checkpoints = folder.join(&name).join("train/checkpoints").exists();
        let found_checkpoints = if has_checkpoints {
            small::checkpoints(folder, &name).len()
        } else {
            0
        };

        assert!(
            found_checkpoints >= checkpoints,
            "{found_checkpoints} checkpoints after {percent} % of a run"
        );

        let found = run_to_end(&broken, &|_| Emulator::new_device(PLENTY));
        let weights = [&name, "straight"].map(|name| small::final_weights(folder, name));
        assert!(weights[0] == weights[1], "{name} ends with other weights");
        assert_eq!(
            (found.loss, found.validation),
            (right.loss, right.validation)
        );
    }
}

#[test]
fn a_rank_whose_device_fails_keeps_no_other_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "broken");
    config.world.devices = 3;
    config.micro_batch_size = Some(MicroBatch::Pairs(2));
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let device = |rank| match rank {
        1 => Emulator::failing_after(PLENTY, left.clone()),
        _ => Emulator::new_device(PLENTY),
    };

    run_to_end(&config, &device);
    let calls = u64::MAX - left.load(Ordering::Relaxed);
    let start = Instant::now();

    for percent in [40, 80] {
        config.artifacts = folder
            .path()
            .join(format!("{percent}"))
            .display()
            .to_string();

        left.store(calls * percent / 100, Ordering::Relaxed);
        let error = run(&config, &device, || false).0.unwrap_err();
        assert!(
            matches!(error, Error::Device(DeviceError::Failed { .. })),
            "{error}"
        );

        assert!(error.to_string().contains("it broke"), "{error}");
    }

    assert!(start.elapsed() < Duration::from_secs(120));
}

/// Peak memory of a run on its first device, in bytes.
fn peak_bytes(config: &TrainConfig) -> u64 {
    let device = Emulator::new_device(PLENTY);
    let peak = AtomicU64::new(0);
    let devices = |rank| {
        if rank == 0 {
            device.clone()
        } else {
            Emulator::new_device(PLENTY)
        }
    };

    let (result, _) = run(config, &devices, || {
        let (free, total) = device.memory_info().unwrap();
        peak.fetch_max(total - free, Ordering::Relaxed);
        false
    });

    result.unwrap();
    peak.into_inner()
}

#[test]
fn a_lack_of_memory_halves_an_automatic_micro_batch_once_on_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = |name: &str, devices: i32, micro_batch: MicroBatch| {
        let mut config = config(folder, name);
        config.global_batch_size = 12;
        config.micro_batch_size = Some(micro_batch);
        config.world.devices = devices;
        config
    };

    for (devices, whole_share) in [(1, 12), (2, 6)] {
        let peaks = [whole_share, whole_share / 2].map(|pairs| {
            peak_bytes(&config(
                &format!("{devices}-{pairs}"),
                devices,
                MicroBatch::Pairs(pairs),
            ))
        });

        assert!(peaks[1] < peaks[0], "{peaks:?}");
        // The last rank's device has memory for half of its share, or for less.
        let with_free_bytes = |free: u64| {
            move |rank| match rank + 1 == devices as usize {
                true => Emulator::with_foreign_memory(PLENTY, PLENTY - free),
                false => Emulator::new_device(PLENTY),
            }
        };

        let between = with_free_bytes(peaks[0].midpoint(peaks[1]));
        let too_little = with_free_bytes(peaks[1] / 2);
        let name = format!("{devices}-halved");
        let plan = run_to_end(&config(&name, devices, MicroBatch::AUTO), &between)
            .memory
            .unwrap();

        assert_eq!(
            (plan.micro_batch_size, plan.halved),
            (whole_share / 2, true)
        );

        let requested = format!("{devices}-{}", whole_share / 2);
        assert_eq!(losses(folder, &name), losses(folder, &requested));
        let rows: [(_, &(dyn Fn(usize) -> Device + Sync)); 2] = [
            (MicroBatch::Pairs(whole_share), &between),
            (MicroBatch::AUTO, &too_little),
        ];

        for (micro_batch, device) in rows {
            let config = config("refused", devices, micro_batch);
            let error = run(&config, device, || false).0.unwrap_err();
            assert!(
                matches!(error, Error::Device(DeviceError::OutOfMemory { .. })),
                "{error}"
            );

            assert_eq!(error.exit_code(), TrainerExit::Config);
        }
    }
}
