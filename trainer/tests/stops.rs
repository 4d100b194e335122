//! A stop is answered within seconds wherever a run is, and costs no step.
#![cfg(test)]

use std::path::Path;
use std::time::{Duration, Instant};

use cnclip::checkpoint::Seeding;
use cnclip_crds::report::ProgressReport;
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};
use cnclip_data::order::BatchSampler;
use cnclip_data::shard::Dataset;

#[path = "support/hanging_server.rs"]
mod hanging_server;
#[path = "support/object_server.rs"]
#[allow(dead_code, reason = "shared with the tests of restoring")]
mod object_server;
#[path = "support/runs.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod runs;
#[path = "support/scores.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod scores;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod workers;
use hanging_server::HangingServer;
use object_server::ObjectServer;
use workers::{WorkerProcesses, start_evaluation, start_training, start_training_with, wait_until};

/// Far below the grace period of a pod.
const ANSWER: Duration = Duration::from_secs(20);

/// A run with batches of two, so that its first steps need few shards.
fn config(folder: &Path, name: &str) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.global_batch_size = 2;
    config
}

/// A shard that no step before `step` needs.
fn shard_first_used_after(config: &TrainConfig, step: u64) -> String {
    late_shard(config, step).0
}

/// The same, with the step that needs it first.
fn late_shard(config: &TrainConfig, step: u64) -> (String, u64) {
    let dataset = Dataset::open(&config.dataset).unwrap();
    let seed = Seeding::Stage.stage_seed(config.seed, &config.run.stage);
    let sampler = BatchSampler::new(dataset.index(), seed, 2).unwrap();
    let needs = |step: u64, shard: u32| sampler.draw_batch(step).iter().any(|d| d.shard == shard);
    let shards = 0..dataset.index().shards.len() as u32;
    let first_needed = |shard: u32| (0..).find(|step| needs(*step, shard)).unwrap();

    let mut late = shards.map(|shard| (shard, first_needed(shard)));
    let (shard, first) = late.find(|(_, first)| *first >= step).unwrap();
    (dataset.index().shards[shard as usize].name.clone(), first)
}

/// Sends a signal and gives the exit code, which comes soon.
fn stop(run: &mut WorkerProcesses, signal: &str) -> Option<i32> {
    let sent = Instant::now();
    run.send_signal(0, signal);
    let ends = run.wait_for_exit(None);
    assert!(sent.elapsed() < ANSWER, "{:?}", sent.elapsed());
    ends[0]
}

#[test]
fn a_run_that_is_starting_ends_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "starting");
    let server = HangingServer::start(Path::new(&config.dataset), "index.json");
    config.dataset = server.url();

    let mut run = start_training(folder, &config, None);
    wait_until(|| server.is_asked());
    assert_eq!(stop(&mut run, "TERM"), Some(75));
    let message = run.failure_message(0);
    assert!(message.starts_with("stopped by signal 15"), "{message}");
}

#[test]
fn a_run_that_waits_for_data_saves_its_state_and_goes_on_from_there() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut straight = config(folder, "straight");
    let late = shard_first_used_after(&straight, 2);
    let server = HangingServer::start(Path::new(&straight.dataset), &late);
    runs::train_to_end(&straight);

    straight.run.name = "waiting".into();
    straight.artifacts = folder.join("waiting").display().to_string();
    straight.dataset = server.url();
    let mut run = start_training(folder, &straight, None);
    wait_until(|| server.is_asked() && run.last_report_if_any(0).is_some_and(|r| r.step >= 2));
    assert_eq!(stop(&mut run, "TERM"), Some(75));

    let message = run.failure_message(0);
    assert!(message.contains("with its checkpoint saved"), "{message}");
    let saved = small::newest_checkpoint(folder, "waiting");
    let step = run.last_report(0).step;
    assert!(step >= 2, "{step}");
    assert!(
        saved.display().to_string().contains(&format!("{step:08}-")),
        "{saved:?}"
    );

    server.answer();
    assert_eq!(
        start_training(folder, &straight, None).wait_for_exit(None),
        [Some(0)]
    );
    let weights = ["straight", "waiting"].map(|name| small::final_weights(folder, name));
    assert!(weights[0] == weights[1]);
}

#[test]
fn a_run_that_validates_saves_its_state_and_validates_when_it_goes_on() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut straight = config(folder, "straight");
    let server = HangingServer::start(Path::new(&straight.dataset), "00002.tar");
    runs::train_to_end(&straight);

    straight.run.name = "validating".into();
    straight.artifacts = folder.join("validating").display().to_string();
    straight.validation.as_mut().unwrap().dataset = server.url();
    let mut run = start_training(folder, &straight, None);
    wait_until(|| server.is_asked());
    assert_eq!(stop(&mut run, "TERM"), Some(75));
    let saved = small::newest_checkpoint(folder, "validating");
    assert!(
        saved.display().to_string().contains("00000005-"),
        "{saved:?}"
    );

    server.answer();
    assert_eq!(
        start_training(folder, &straight, None).wait_for_exit(None),
        [Some(0)]
    );
    let [right, found] = ["straight", "validating"].map(|name| small::validations(folder, name));
    assert_eq!(found, right);
}

#[test]
fn a_second_signal_ends_the_process() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "twice");
    let late = shard_first_used_after(&config, 2);
    let server = HangingServer::start(Path::new(&config.dataset), &late);
    config.dataset = server.url();

    let mut run = start_training(folder, &config, None);
    wait_until(|| server.is_asked() && run.last_report_if_any(0).is_some_and(|r| r.step >= 2));
    run.send_signal(0, "TERM");
    std::thread::sleep(Duration::from_secs(1));
    let sent = Instant::now();
    assert_eq!(stop(&mut run, "TERM"), Some(143));
    assert!(sent.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_evaluation_ends_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let trained = small::train_config(folder, "run");
    runs::train_to_end(&trained);
    let server = HangingServer::start(Path::new(&trained.dataset), "00001.tar");
    let config = scores::evaluation_config(folder, ("run", "scores"), 1);
    let mut text = serde_json::to_value(&config).unwrap();
    text["tasks"][0]["retrieval"]["dataset"] = server.url().into();
    let config = serde_json::from_value(text).unwrap();

    let mut run = start_evaluation(folder, &config, None);
    wait_until(|| server.is_asked());
    assert_eq!(stop(&mut run, "INT"), Some(75));
    let message = run.failure_message(0);
    assert!(message.starts_with("stopped by signal 2"), "{message}");
}

#[test]
fn a_checkpoint_is_written_after_so_many_seconds_too() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "seconds");
    config.length = TrainingLength::Steps(1_000_000);
    config.validation = None;
    config.checkpoint.every_steps = 1_000_000;
    config.checkpoint.every_seconds = 1;

    let mut run = start_training(folder, &config, None);
    let checkpoints = folder.join("seconds/train/checkpoints");
    wait_until(|| checkpoints.exists() && small::checkpoints(folder, "seconds").len() >= 2);
    assert_eq!(stop(&mut run, "TERM"), Some(75));
}

#[test]
fn a_run_whose_checkpoints_fail_says_so_and_ends_after_the_third() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "unsaved");
    config.checkpoint.every_steps = 1;
    config.validation = None;
    config.length = TrainingLength::Steps(1000);
    // Where the folder of checkpoints should be is a file.
    std::fs::create_dir_all(folder.join("unsaved/train")).unwrap();
    std::fs::write(folder.join("unsaved/train/checkpoints"), "").unwrap();

    let (ended, report) = runs::train_until(&config, u64::MAX);
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code().exit_code(), 78, "{error}");
    assert!(
        error.to_string().contains("a file is where a folder"),
        "{error}"
    );
    assert_eq!(report.checkpoints_failed, 3);
    assert_eq!(report.checkpoint_error, Some(error.to_string()));
    assert!((3..1000).contains(&report.step), "{}", report.step);
}

/// A run whose checkpoints of an early step are not taken by the store, until it is stopped.
#[test]
fn a_stop_during_an_upload_saves_the_newest_state_and_not_the_older_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let server = ObjectServer::start(folder);
    server.hold_back("00000002-1/weights.safetensors");
    let mut config = config(folder, "uploading");
    config.artifacts = server.uri("uploading");
    config.length = TrainingLength::Steps(1_000_000);
    config.validation = None;
    config.checkpoint.every_steps = 2;

    let mut run = start_training_with(folder, &config, None, &server.environment());
    let is_uploading = || {
        let mut uploads = server.uploads().into_iter();
        uploads.any(|name| name.ends_with("00000002-1/weights.safetensors"))
    };
    wait_until(|| is_uploading() && run.last_report_if_any(0).is_some_and(|r| r.step >= 5));
    assert_eq!(stop(&mut run, "TERM"), Some(75));

    let message = run.failure_message(0);
    assert!(message.contains("with its checkpoint saved"), "{message}");
    let step = run.last_report(0).step;
    let saved = small::checkpoints(folder, "uploading");
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert!(
        saved[0].ends_with(format!("{step:08}-1")),
        "{saved:?}, {step}"
    );
    let abandoned = folder.join("uploading/train/checkpoints/00000002-1");
    let left = std::fs::read_dir(&abandoned).into_iter().flatten().count();
    assert_eq!(left, 0, "files in {abandoned:?}");
}

#[test]
fn a_checkpoint_of_the_last_step_whose_upload_failed_is_written_again_before_the_end() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "again");
    let (late, last_step) = late_shard(&config, 2);
    let server = HangingServer::start(Path::new(&config.dataset), &late);
    config.dataset = server.url();
    config.validation = None;
    // The only checkpoint is that of the step before the run waits for data.
    config.checkpoint.every_steps = last_step as i64;
    // Where the folder of checkpoints should be is a file, until the run waits for data.
    let stage = folder.join("again/train");
    std::fs::create_dir_all(&stage).unwrap();
    std::fs::write(stage.join("checkpoints"), "").unwrap();

    let mut run = start_training(folder, &config, None);
    let is_at_last = |report: ProgressReport| report.step == last_step as i64;
    wait_until(|| server.is_asked() && run.last_report_if_any(0).is_some_and(is_at_last));
    // The upload fails within milliseconds.
    std::thread::sleep(Duration::from_secs(1));
    std::fs::remove_file(stage.join("checkpoints")).unwrap();
    assert_eq!(stop(&mut run, "TERM"), Some(75));
    let report = run.last_report(0);
    assert_eq!(
        (report.step, report.checkpoints_failed),
        (last_step as i64, 1)
    );
    let saved = small::newest_checkpoint(folder, "again");
    assert!(saved.ends_with(format!("{last_step:08}-1")), "{saved:?}");
}
