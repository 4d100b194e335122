//! What becomes of a run whose device breaks or has too little memory, and of one that goes on later.

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

/// Trains where `device` says, until `stop` says so.
fn run(
    config: &TrainConfig,
    device: &(dyn Fn(usize) -> Device + Sync),
    stop: impl Fn() -> bool,
) -> (Result<()>, ProgressReport) {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let memory = |rank| Ok(Memory::Device(device(rank), Precision::Fp32));
    let done = train_stage_with_memory(config, &reporter, stop, &memory);
    (done, reporter.current_report())
}

fn whole(config: &TrainConfig, device: &(dyn Fn(usize) -> Device + Sync)) -> ProgressReport {
    let (done, report) = run(config, device, || false);
    done.unwrap();
    report
}

/// A run with an average, dropout, masks and a checkpoint after every third step.
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
fn a_run_that_stops_on_a_device_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let right = whole(&config(folder, "straight"), &|_| open());
    let stopped = config(folder, "stopped");
    let steps = AtomicU64::new(0);
    let (done, _) = run(&stopped, &|_| open(), || {
        steps.fetch_add(1, Ordering::Relaxed) == 3
    });

    assert!(
        matches!(done, Err(Error::Interrupted { step: 4 })),
        "{done:?}"
    );

    let found = whole(&stopped, &|_| open());
    assert_ends_as(folder, "stopped", &found, "straight", &right);
}

#[test]
fn a_device_that_breaks_ends_a_run_which_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let right = whole(&config(folder, "straight"), &|_| {
        Emulator::failing_after(PLENTY, left.clone())
    });

    let calls = u64::MAX - left.load(Ordering::Relaxed);
    for (percent, checkpoints) in [(2, 0), (60, 1), (99, 2)] {
        let name = format!("broken-{percent}");
        let broken = config(folder, &name);
        let left = Arc::new(AtomicU64::new(calls * percent / 100));
        let device = |_| Emulator::failing_after(PLENTY, left.clone());
        let (done, report) = run(&broken, &device, || false);
        let error = done.unwrap_err();

        assert_eq!(error.exit_code(), TrainerExit::Retry, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("cannot use an emulated device: it broke"),
            "{error}"
        );

        assert!(report.loss.is_none_or(|loss| loss > 0.0), "{report:?}");
        let there = folder.join(&name).join("train/checkpoints").exists();
        let there = if there {
            small::checkpoints(folder, &name).len()
        } else {
            0
        };

        assert!(
            there >= checkpoints,
            "{there} checkpoints after {percent} % of a run"
        );

        let found = whole(&broken, &|_| Emulator::new_device(PLENTY));
        let ends = [&name, "straight"].map(|name| small::final_weights(folder, name));
        assert!(ends[0] == ends[1], "{name} ends with other weights");
        assert_eq!(
            (found.loss, found.validation),
            (right.loss, right.validation)
        );
    }
}

#[test]
fn a_rank_whose_device_breaks_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "broken");
    (config.world.devices, config.micro_batch_size) = (3, Some(MicroBatch::Pairs(2)));
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let device = |rank| match rank {
        1 => Emulator::failing_after(PLENTY, left.clone()),
        _ => Emulator::new_device(PLENTY),
    };

    whole(&config, &device);
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

/// Bytes that a run takes of its first device.
fn taken(config: &TrainConfig) -> u64 {
    let device = Emulator::new_device(PLENTY);
    let most = AtomicU64::new(0);
    let devices = |rank| {
        if rank == 0 {
            device.clone()
        } else {
            Emulator::new_device(PLENTY)
        }
    };

    let (done, _) = run(config, &devices, || {
        let (free, all) = device.memory_info().unwrap();
        most.fetch_max(all - free, Ordering::Relaxed);
        false
    });

    done.unwrap();
    most.into_inner()
}

#[test]
fn a_lack_of_memory_halves_what_was_left_to_choose_once_on_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = |name: &str, devices: i32, micro_batch: MicroBatch| {
        let mut config = config(folder, name);
        (config.global_batch_size, config.micro_batch_size) = (12, Some(micro_batch));
        config.world.devices = devices;
        config
    };

    for (devices, whole_share) in [(1, 12), (2, 6)] {
        let needs = [whole_share, whole_share / 2].map(|pairs| {
            taken(&config(
                &format!("{devices}-{pairs}"),
                devices,
                MicroBatch::Pairs(pairs),
            ))
        });

        assert!(needs[1] < needs[0], "{needs:?}");
        // The last rank's device has room for half of its share, or for less.
        let with = |given: u64| {
            move |rank| match rank + 1 == devices as usize {
                true => Emulator::with_foreign_memory(PLENTY, PLENTY - given),
                false => Emulator::new_device(PLENTY),
            }
        };

        let between = with(needs[0].midpoint(needs[1]));
        let too_little = with(needs[1] / 2);
        let name = format!("{devices}-halved");
        let plan = whole(&config(&name, devices, MicroBatch::AUTO), &between)
            .memory
            .unwrap();

        assert_eq!(
            (plan.micro_batch_size, plan.halved),
            (whole_share / 2, true)
        );

        let asked = format!("{devices}-{}", whole_share / 2);
        assert_eq!(losses(folder, &name), losses(folder, &asked));
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
