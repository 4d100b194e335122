//! Ranks with a share of the batch each, in threads, against one rank with the whole batch.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/same.rs"]
mod same;
#[path = "support/scores.rs"]
mod scores;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;

use std::path::Path;
use std::sync::{Arc, Mutex};

use cnclip::evaluation_job::run_evaluation;
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip_compute::collective::Collective;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::model::VitConfig;
use cnclip_crds::report::TrainerActivity;
use cnclip_crds::stage::{DuplicatePolicy, MicroBatch};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};
use cnclip_distributed::{Communicator, LocalRanks};
use cnclip_nn::accumulate::GradientAccumulator;
use golden::{GoldenModel, assert_close, without_gradient};
use runs::{train_to_end, train_until};
use same::assert_same;

const SAMPLES: usize = 6;

/// What a rank has after a step.
struct StepResult {
    /// Summed over all ranks.
    gradients: Vec<f32>,
    running_statistics: Vec<f32>,
}

fn step(communicator: &Arc<Communicator>, synchronized: bool) -> StepResult {
    let golden = GoldenModel::read("rn50");
    let (mut clip, mut params) = golden.model();
    if synchronized {
        clip.synchronize_batch_norm(communicator.clone());
    }

    let local = communicator.rank_range(SAMPLES);
    let samples = golden.load_batch(0).slice_samples(local.start, local.end);
    let mut accumulator =
        GradientAccumulator::with_ranks(&clip, &params, SAMPLES, SAMPLES, communicator.clone());
    let mut buckets = communicator.gradient_buckets().unwrap();
    let score = accumulator.forward(&mut clip, &mut params, samples.batch(), Dropout::NONE);

    params.clear_gradients();
    clip.add_logit_scale_gradient(&mut params, score.logit_scale_gradient as f32);
    accumulator.backward(
        &mut clip,
        &mut params,
        samples.batch(),
        Dropout::NONE,
        &mut buckets,
    );

    buckets.finish_all_reduce(&mut params.gradients.view_mut());

    StepResult {
        gradients: params.gradients.to_host().into_owned(),
        running_statistics: params.buffers.to_host().into_owned(),
    }
}

/// The result of the first of `count` ranks; all must have the same gradients.
fn step_on_ranks(count: usize, synchronized: bool) -> StepResult {
    let results = Mutex::new(Vec::new());
    let job = |communicator: Arc<Communicator>| {
        let result = step(&communicator, synchronized);
        communicator.barrier()?;
        results.lock().unwrap().push((communicator.rank(), result));
        Ok(())
    };

    LocalRanks::single_process(count)
        .run_ranks::<cnclip_distributed::Error>(job, job)
        .unwrap();
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(rank, _)| *rank);
    assert!(
        results
            .iter()
            .all(|(_, result)| result.gradients == results[0].1.gradients),
        "every rank has the same gradients to the last bit"
    );

    results.swap_remove(0).1
}

#[test]
fn ranks_that_share_their_statistics_train_as_one_rank_with_the_whole_batch() {
    let right = step_on_ranks(1, false);
    for count in [2, 3] {
        let found = step_on_ranks(count, true);
        assert_close(
            "running statistics",
            &found.running_statistics,
            &right.running_statistics,
            1e-6,
        );

        let (_, params) = GoldenModel::read("rn50").model();

        for segment in params
            .segments()
            .iter()
            .filter(|segment| !without_gradient(&segment.name))
        {
            let range = segment.range.clone();
            assert_close(
                &segment.name,
                &found.gradients[range.clone()],
                &right.gradients[range],
                1e-4,
            );
        }
    }
}

#[test]
fn ranks_that_do_not_share_them_follow_their_own_batches() {
    assert_ne!(
        step_on_ranks(2, false).running_statistics,
        step_on_ranks(1, false).running_statistics
    );
}

/// A run of six steps with everything in which ranks could differ from one rank.
fn config(folder: &Path, name: &str, devices: i32) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.global_batch_size = 12;
    config.world.devices = devices;
    config.synchronize_batch_norm = true;
    config
}

/// A ResNet with synchronised statistics, an EMA, gradient clipping and duplicates.
fn resnet(folder: &Path, name: &str, devices: i32) -> TrainConfig {
    let mut config = config(folder, name, devices);
    config.optimizer.average_decay = Some(0.9);
    config.optimizer.max_gradient_norm = Some(0.5);
    config.duplicates = DuplicatePolicy::Positives;

    config
}

/// A vision transformer in micro-batches with masked patches and a teacher.
fn vit(folder: &Path, name: &str, devices: i32) -> TrainConfig {
    let mut config = config(folder, name, devices);
    config.model.image.resnet = None;
    config.model.image.vit = Some(VitConfig {
        layers: 2,
        width: 12,
        patch_size: 8,
        head_width: 6,
    });

    config.micro_batch_size = Some(MicroBatch::Pairs(2));
    config.masked_patches_percent = 50;
    config.gradient_checkpointing = Some(true);
    let teacher = small::stage_uri(folder, "teacher");
    config.distillation = Some(DistillationConfig {
        teacher,
        weight: 2.0,
    });

    config
}

#[test]
fn a_run_of_any_number_of_ranks_is_the_run_of_one() {
    let folder = tempfile::tempdir().unwrap();
    train_to_end(&small::train_config(folder.path(), "teacher"));
    type Kind = fn(&Path, &str, i32) -> TrainConfig;
    let kinds: [(&str, Kind); 2] = [("resnet", resnet), ("vit", vit)];

    for (kind, config) in kinds {
        let single = format!("{kind}-1");
        let right = train_to_end(&config(folder.path(), &single, 1));
        for devices in [2, 3, 4] {
            let name = format!("{kind}-{devices}");
            let found = train_to_end(&config(folder.path(), &name, devices));
            assert_same(folder.path(), (&name, &found), (&single, &right));
        }
    }
}

#[test]
fn any_number_of_ranks_scores_what_one_scores() {
    let folder = tempfile::tempdir().unwrap();
    train_to_end(&small::train_config(folder.path(), "run"));
    let evaluate = |devices: i32| {
        let name = format!("scores-{devices}");
        let mut config = scores::evaluation_config(folder.path(), ("run", &name), 2);
        config.world.devices = devices;
        let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
        let table = run_evaluation(&config, &reporter).unwrap();

        assert_eq!(reporter.current_report().activity, TrainerActivity::Done);
        let (tasks, files) = scores::read_scores(folder.path(), &name);
        assert!(tasks.len() == 2 && files.len() >= 2, "{tasks:?}, {files:?}");
        // Without the lines that end in the seconds it took.
        let rows = table.lines().filter(|line| !line.ends_with(" s"));
        (rows.collect::<Vec<_>>().join("\n"), tasks, files)
    };

    let right = evaluate(1);
    for devices in [2, 3] {
        assert_eq!(evaluate(devices), right, "{devices} ranks");
    }
}

#[test]
fn ranks_that_are_to_stop_do_so_after_the_same_step_and_resume_as_if_they_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let right = train_to_end(&resnet(folder.path(), "straight", 3));
    let stopping = resnet(folder.path(), "stopped", 3);
    let error = train_until(&stopping, 4).0.unwrap_err();
    assert!(
        error.to_string().contains("stopped after step 4"),
        "{error}"
    );

    let found = train_to_end(&stopping);
    assert_eq!(
        (found.loss, found.validation),
        (right.loss, right.validation)
    );

    let weights = ["straight", "stopped"].map(|name| small::final_weights(folder.path(), name));
    assert!(weights[0] == weights[1]);
}

#[test]
fn a_batch_that_ranks_cannot_share_equally_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    type Change = fn(&mut TrainConfig);
    let rows: [(Change, &[&str]); 4] = [
        (
            |c| c.world.devices = 5,
            &["globalBatchSize is 12", "5 devices", "Set it to 15"],
        ),
        (
            |c| c.micro_batch_size = Some(MicroBatch::Pairs(7)),
            &["microBatchSize is 7", "which is 6"],
        ),
        (|c| c.world.devices = 0, &["at least one of each"]),
        (
            |c| c.world.replicas = 2,
            &["world.coordinator is \"\"", "2 workers", "host:port"],
        ),
    ];

    for (change, expected) in rows {
        let mut config = config(folder.path(), "never", 2);
        change(&mut config);
        let error = train_until(&config, u64::MAX).0.unwrap_err();
        assert_eq!(error.exit_code(), TrainerExit::Config);

        for part in expected {
            assert!(error.to_string().contains(part), "no {part:?} in: {error}");
        }
    }
}
