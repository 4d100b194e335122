//! Ranks on devices that reach one another by themselves, against one rank with the whole batch.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cnclip::error::{Error, Result};
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage_with_memory;
use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::tensor::{Memory, Tensor};
use cnclip_crds::report::ProgressReport;
use cnclip_crds::stage::{MicroBatch, Precision};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_distributed::{Communicator, LocalRanks};

use crate::same::{assert_same, losses};
use crate::support::open;
use crate::train;

/// Trains, each rank on a device of its own.
fn whole(config: &TrainConfig, precision: Precision) -> ProgressReport {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let memory = |_| Ok(Memory::Device(open(), precision));
    train_stage_with_memory(config, &reporter, || false, &memory).unwrap();
    reporter.current_report()
}

fn config(folder: &Path, name: &str, devices: i32) -> TrainConfig {
    let mut config = train::config(folder, name, true);
    (config.global_batch_size, config.micro_batch_size) = (12, Some(MicroBatch::Pairs(2)));
    config.world.devices = devices;
    config
}

#[test]
fn a_run_on_any_number_of_devices_is_the_run_on_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    whole(&train::config(folder, "teacher", false), Precision::Fp32);
    let right = whole(&config(folder, "1", 1), Precision::Fp32);

    for (name, devices) in [("2", 2), ("3", 3)] {
        let found = whole(&config(folder, name, devices), Precision::Fp32);
        assert_same(folder, (name, &found), ("1", &right));
    }

    whole(&config(folder, "bf16", 2), Precision::Bf16);
    for (found, right) in losses(folder, "bf16").iter().zip(losses(folder, "1")) {
        assert!(
            (found / right - 1.0).abs() < 5e-2,
            "{found}, expected {right}"
        );
    }
}

/// Ranks whose devices reach one another, at work; each gives what it made, in the order of the ranks.
fn each<T: Send>(
    count: usize,
    work: impl Fn(&Communicator, &Memory) -> Result<T> + Sync,
) -> (Result<()>, Vec<T>) {
    let made = Mutex::new(Vec::new());
    let job = |world: Arc<Communicator>| {
        let device = open();
        world.connect_devices(&device)?;
        let done = work(&world, &Memory::Device(device, Precision::Fp32))?;
        made.lock().unwrap().push((world.rank(), done));

        Ok(())
    };

    let ended = LocalRanks::single_process(count).run_ranks(job, job);
    let mut made = made.into_inner().unwrap();
    made.sort_by_key(|(rank, _)| *rank);
    (ended, made.into_iter().map(|(_, done)| done).collect())
}

/// Numbers whose sums do not round.
fn numbers(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|i| ((i * 7 + rank * 31) % 101) as f32)
        .collect()
}

fn array(memory: &Memory, values: &[f32]) -> Tensor {
    let mut array = memory.alloc_f32(values.len());
    array.update_on_host(|own| own.copy_from_slice(values));
    array
}

#[test]
fn sums_and_what_is_gathered_are_the_same_on_all_devices() {
    const LENGTH: usize = 100_003;
    for count in [2, 3] {
        let (ended, found) = each(count, |world, memory| {
            let own = numbers(world.rank(), LENGTH);
            let mut buckets = world.gradient_buckets()?;
            let mut summed = array(memory, &own);
            let mut gathered = array(memory, &vec![0.0; 5 * count]);
            gathered
                .update_on_host(|all| all[world.rank_range(5 * count)].copy_from_slice(&own[..5]));
            // What asks a card for memory may wait for all that it does, and so for other ranks.
            world.barrier()?;

            for range in [LENGTH - 7..LENGTH, 10..LENGTH - 7] {
                buckets.reduce_gradients(&mut summed.view_mut(), range);
            }

            buckets.finish_all_reduce(&mut summed.view_mut());
            world.all_gather_tensor(gathered.view_mut());
            let made = (
                summed.to_host().into_owned(),
                gathered.to_host().into_owned(),
            );
            memory.synchronize()?;

            Ok(made)
        });

        ended.unwrap();
        let all: Vec<_> = (0..count).map(|rank| numbers(rank, LENGTH)).collect();
        let gathered = all.iter().map(|own| &own[..5]).collect::<Vec<_>>().concat();
        assert_eq!(found.len(), count);

        for (rank, (summed, found)) in found.iter().enumerate() {
            assert_eq!(*found, gathered, "rank {rank} of {count}");
            for (at, found) in summed.iter().enumerate() {
                let right = if at < 10 {
                    all[rank][at]
                } else {
                    all.iter().map(|own| own[at]).sum()
                };

                assert_eq!(*found, right, "number {at} of rank {rank} of {count}");
            }
        }
    }
}

#[test]
fn a_rank_that_is_lost_ends_what_the_others_wait_for_on_their_devices() {
    let start = Instant::now();
    let heard = Mutex::new(Vec::new());
    let (ended, _) = each(3, |world, memory| {
        world.set_step(4);
        let mut features = array(memory, &[0.0; 6]);
        world.barrier()?;
        world.all_gather_tensor(features.view_mut());
        memory.synchronize()?;
        world.barrier()?;

        if world.rank() == 1 {
            // The others wait for it by now.
            std::thread::sleep(Duration::from_secs(1));
            return Err(Error::Data("bad image".into()));
        }

        world.all_gather_tensor(features.view_mut());
        drop(features.to_host());
        let told = world.check_peers();
        heard
            .lock()
            .unwrap()
            .push(told.as_ref().map_err(ToString::to_string).unwrap_err());

        Ok(told?)
    });

    assert!(matches!(ended, Err(Error::Data(_))), "{ended:?}");
    let heard = heard.into_inner().unwrap();
    assert_eq!(heard.len(), 2);
    let expected = "worker 0 (rank 1) failed in step 4: bad image";
    assert!(heard.iter().all(|told| told == expected), "{heard:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
}
