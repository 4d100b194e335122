//! Ranks whose devices are connected, against one rank with the whole batch.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cnclip::error::{Error, Result};
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage_with_memory;
use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::device::DType;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_crds::report::ProgressReport;
use cnclip_crds::stage::{MicroBatch, Precision};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_distributed::{Communicator, LocalRanks, run_on_ranks};

use crate::same::{assert_same, losses};
use crate::support::{open, rounded};
use crate::train;

/// Trains to the end, each rank on a device of its own.
fn train_to_end(config: &TrainConfig, precision: Precision) -> ProgressReport {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let memory = |_| Ok(Memory::Device(open(), precision));
    train_stage_with_memory(config, &reporter, || false, &memory).unwrap();
    reporter.current_report()
}

fn config(folder: &Path, name: &str, devices: i32) -> TrainConfig {
    let mut config = train::config(folder, name, true);
    config.global_batch_size = 12;
    config.micro_batch_size = Some(MicroBatch::Pairs(2));
    config.world.devices = devices;
    config
}

#[test]
fn a_run_on_any_number_of_devices_is_the_run_on_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    train_to_end(&train::config(folder, "teacher", false), Precision::Fp32);
    let right = train_to_end(&config(folder, "1", 1), Precision::Fp32);

    for (name, devices) in [("2", 2), ("3", 3)] {
        let found = train_to_end(&config(folder, name, devices), Precision::Fp32);
        assert_same(folder, (name, &found), ("1", &right));
    }

    train_to_end(&config(folder, "bf16", 2), Precision::Bf16);
    for (found, right) in losses(folder, "bf16").iter().zip(losses(folder, "1")) {
        assert!(
            (found / right - 1.0).abs() < 5e-2,
            "{found}, expected {right}"
        );
    }
}

/// Runs the same work on ranks whose devices are connected; the results are in the order of the ranks.
fn run_on_device_ranks<T: Send>(
    count: usize,
    work: impl Fn(&Communicator, &Memory) -> Result<T> + Sync,
) -> (Result<()>, Vec<T>) {
    let results = Mutex::new(Vec::new());
    let job = |communicator: Arc<Communicator>| {
        let device = open();
        communicator.connect_devices(&device)?;
        let result = work(&communicator, &Memory::Device(device, Precision::Fp32))?;
        results.lock().unwrap().push((communicator.rank(), result));

        Ok(())
    };

    let ended = LocalRanks::single_process(count).run_ranks(job, job);
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(rank, _)| *rank);
    (
        ended,
        results.into_iter().map(|(_, result)| result).collect(),
    )
}

/// Values whose sums do not round.
fn numbers(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|i| ((i * 7 + rank * 31) % 101) as f32)
        .collect()
}

fn tensor(memory: &Memory, values: &[f32]) -> Tensor {
    let mut tensor = memory.alloc_f32(values.len());
    tensor.update_on_host(|target| target.copy_from_slice(values));
    tensor
}

#[test]
fn sums_and_what_is_gathered_are_the_same_on_all_devices() {
    const LENGTH: usize = 100_003;
    for count in [2, 3] {
        let (ended, found) = run_on_device_ranks(count, |communicator, memory| {
            let local = numbers(communicator.rank(), LENGTH);
            let mut buckets = communicator.gradient_buckets()?;
            let mut summed = tensor(memory, &local);
            let mut gathered = tensor(memory, &vec![0.0; 5 * count]);
            gathered.update_on_host(|all| {
                all[communicator.rank_range(5 * count)].copy_from_slice(&local[..5])
            });
            // Allocating memory may wait for everything on a GPU, and so for other ranks.
            communicator.barrier()?;

            for range in [LENGTH - 7..LENGTH, 10..LENGTH - 7] {
                buckets.reduce_gradients(&mut summed.view_mut(), range);
            }

            buckets.finish_all_reduce(&mut summed.view_mut());
            communicator.all_gather_tensor(gathered.view_mut());
            let result = (
                summed.to_host().into_owned(),
                gathered.to_host().into_owned(),
            );
            memory.synchronize()?;

            Ok(result)
        });

        ended.unwrap();
        let all: Vec<_> = (0..count).map(|rank| numbers(rank, LENGTH)).collect();
        let gathered = all
            .iter()
            .map(|local| &local[..5])
            .collect::<Vec<_>>()
            .concat();
        assert_eq!(found.len(), count);

        for (rank, (summed, found)) in found.iter().enumerate() {
            assert_eq!(*found, gathered, "rank {rank} of {count}");
            for (index, found) in summed.iter().enumerate() {
                let right = if index < 10 {
                    all[rank][index]
                } else {
                    all.iter().map(|local| local[index]).sum()
                };

                assert_eq!(*found, right, "value {index} of rank {rank} of {count}");
            }
        }
    }
}

#[test]
fn every_device_gets_the_weights_of_rank_zero_and_their_rounded_copy() {
    const LENGTH: usize = 100_003;
    let values = |rank: usize| {
        let numbers = numbers(rank, LENGTH).into_iter();
        numbers.map(|value| value / 7.0).collect::<Vec<_>>()
    };

    for (count, is_connected) in [(2, true), (3, true), (3, false)] {
        let job = |communicator: &Communicator| -> Result<_> {
            let device = open();
            if is_connected {
                communicator.connect_devices(&device)?;
            }

            let memory = Memory::Device(device, Precision::Bf16);
            let mut weights = memory.alloc_weights(LENGTH);
            weights.copy_from(TensorView::Host(&values(communicator.rank())));
            communicator.barrier()?;
            communicator.broadcast_tensor(weights.view_mut())?;

            let found = weights.to_host().into_owned();
            let copy = weights.view().expect_device().bf16_copy().unwrap();
            Ok((found, copy.to_host()))
        };

        let right = values(0);
        let rounded: Vec<_> = right
            .iter()
            .map(|&value| rounded(value, DType::Bf16))
            .collect();
        for found in run_on_ranks(count, job).unwrap() {
            let (found, copy) = found.unwrap();
            assert!(found == right, "{count} ranks, connected: {is_connected}");
            assert!(copy == rounded, "{count} ranks, connected: {is_connected}");
        }
    }
}

#[test]
fn a_rank_that_fails_ends_what_the_others_wait_for_on_their_devices() {
    let start = Instant::now();
    let errors = Mutex::new(Vec::new());
    let (ended, _) = run_on_device_ranks(3, |communicator, memory| {
        communicator.set_step(4);
        let mut features = tensor(memory, &[0.0; 6]);
        communicator.barrier()?;
        communicator.all_gather_tensor(features.view_mut());
        memory.synchronize()?;
        communicator.barrier()?;

        if communicator.rank() == 1 {
            // The others wait for it by now.
            std::thread::sleep(Duration::from_secs(1));
            return Err(Error::Data("bad image".into()));
        }

        communicator.all_gather_tensor(features.view_mut());
        drop(features.to_host());
        let result = communicator.check_peers();
        errors
            .lock()
            .unwrap()
            .push(result.as_ref().map_err(ToString::to_string).unwrap_err());

        Ok(result?)
    });

    assert!(matches!(ended, Err(Error::Data(_))), "{ended:?}");
    let errors = errors.into_inner().unwrap();
    assert_eq!(errors.len(), 2);
    let expected = "worker 0 (rank 1) failed in step 4: bad image";
    assert!(errors.iter().all(|error| error == expected), "{errors:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
}
