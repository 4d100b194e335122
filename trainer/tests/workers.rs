//! Workers as processes that meet over TCP: together they are one run, and what happens to one of them
//! is known to all.
#![cfg(test)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cnclip_crds::names::ENV_RENDEZVOUS_SECRET;
use cnclip_crds::report::TrainerActivity;
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};

#[path = "support/runs.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod runs;
#[path = "support/scores.rs"]
mod scores;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod workers;
use workers::{
    SHARED_SECRET, free_coordinator_address, start_evaluation, start_training, wait_until,
    worker_command, write_config,
};

/// A run of many short steps, of so many workers.
fn config(folder: &Path, name: &str, replicas: i32) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    (config.global_batch_size, config.length) = (6, TrainingLength::Steps(120));
    (config.checkpoint.every_steps, config.report_every_steps) = (10, 10);
    (config.synchronize_batch_norm, config.validation) = (true, None);
    (config.world.replicas, config.world.coordinator) =
        (replicas, Some(free_coordinator_address()));

    config
}

fn weights(folder: &Path, name: &str) -> Vec<u8> {
    small::final_weights(folder, name)
}

/// Starts a run of three, does something to it once it has a checkpoint, and gives what each ended with.
fn disturb(
    (folder, config): (&Path, &TrainConfig),
    (worker, signal): (usize, &str),
) -> (workers::WorkerProcesses, Vec<Option<i32>>) {
    let mut run = start_training(folder, config, None);
    let checkpoints = folder.join(&config.run.name).join("train/checkpoints");
    wait_until(|| checkpoints.exists() && !small::checkpoints(folder, &config.run.name).is_empty());
    run.send_signal(worker, signal);
    let hanging = (signal == "STOP").then_some(worker);
    let ends = run.wait_for_exit(hanging);

    (run, ends)
}

#[test]
fn processes_are_one_run_whatever_happens_to_one_of_them() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let straight = config(folder, "straight", 3);
    let mut run = start_training(folder, &straight, None);
    assert_eq!(run.wait_for_exit(None), [Some(0); 3]);
    let first = run.last_report(0);
    let second = run.last_report(1);

    assert_eq!(
        (first.activity, first.step, first.samples_seen),
        (TrainerActivity::Done, 120, 720)
    );

    assert_eq!(
        (second.activity, second.step, second.loss),
        (TrainerActivity::Done, 120, None)
    );

    assert!(second.wait_seconds > 0.0);
    let right = weights(folder, "straight");

    // In threads the ring is as long and the sums are in the same order.
    let mut threads = config(folder, "threads", 1);
    threads.world.devices = 3;
    runs::train_to_end(&threads);
    assert!(weights(folder, "threads") == right);

    let killed = config(folder, "killed", 3);
    let (run, ends) = disturb((folder, &killed), (1, "KILL"));
    assert_eq!(ends, [Some(75), None, Some(75)]);

    for worker in [0, 2] {
        let told = run.failure_message(worker);
        assert!(
            told.starts_with("worker 1 (rank 1) was lost in step "),
            "{told}"
        );

        assert!(told.contains("run the same command again"), "{told}");
    }

    assert_eq!(
        start_training(folder, &killed, None).wait_for_exit(None),
        [Some(0); 3]
    );
    assert!(weights(folder, "killed") == right);

    let stopped = config(folder, "stopped", 3);
    let (run, ends) = disturb((folder, &stopped), (2, "TERM"));
    assert_eq!(ends, [Some(75); 3]);
    let steps = [0, 1, 2].map(|worker| run.last_report(worker).step);
    assert!(
        steps[0] > 0 && steps[0] < 120 && steps == [steps[0]; 3],
        "{steps:?}"
    );

    let saved = small::newest_checkpoint(folder, "stopped");
    assert!(
        saved
            .display()
            .to_string()
            .contains(&format!("{:08}-", steps[0])),
        "{saved:?}"
    );

    assert_eq!(
        start_training(folder, &stopped, None).wait_for_exit(None),
        [Some(0); 3]
    );
    assert!(weights(folder, "stopped") == right);
}

#[test]
fn a_worker_that_hangs_is_missed_by_all_others() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut hanging = config(folder, "hanging", 3);
    hanging.length = TrainingLength::Steps(100_000);
    let begin = Instant::now();
    let (run, ends) = disturb((folder, &hanging), (2, "STOP"));

    assert_eq!(ends, [Some(75), Some(75), None]);
    assert!(
        begin.elapsed() > Duration::from_secs(9),
        "a breath is not missed"
    );

    for worker in [0, 1] {
        let told = run.failure_message(worker);
        assert!(
            told.starts_with("worker 2 (rank 2) was lost in step "),
            "{told}"
        );

        assert!(told.contains("no heartbeat for 10 s"), "{told}");
    }
}

#[test]
fn a_worker_that_ends_by_itself_keeps_its_code_and_the_others_say_why() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut unfit = config(folder, "unfit", 2);
    // Beside the first worker, but not beside the second.
    unfit.dataset = "data".into();
    unfit.world.devices = 3;
    let mut run = start_training(folder, &unfit, Some(1));

    assert_eq!(run.wait_for_exit(None), [Some(75), Some(78)]);
    assert!(
        run.failure_message(1).contains("data holds no index.json"),
        "{}",
        run.failure_message(1)
    );

    let told = run.failure_message(0);
    assert!(
        told.starts_with("worker 1 (rank ") && told.contains("data holds no index.json"),
        "{told}"
    );
}

#[test]
fn processes_score_together_what_one_scores_and_know_of_each_others_end() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    runs::train_to_end(&small::train_config(folder, "run"));
    let scoring = |name: &str, replicas: i32, tasks: usize| {
        let mut config = scores::evaluation_config(folder, ("run", name), tasks);
        (config.world.replicas, config.world.coordinator) =
            (replicas, Some(free_coordinator_address()));
        config
    };

    assert_eq!(
        start_evaluation(folder, &scoring("alone", 1, 2), None).wait_for_exit(None),
        [Some(0)]
    );

    let mut run = start_evaluation(folder, &scoring("three", 3, 2), None);
    assert_eq!(run.wait_for_exit(None), [Some(0); 3]);
    assert_eq!(
        scores::read_scores(folder, "three"),
        scores::read_scores(folder, "alone")
    );

    let results = [0, 1, 2].map(|worker| run.last_report(worker).results.len());
    assert_eq!(results, [2, 0, 0], "worker 0 alone speaks");

    let mut run = start_evaluation(folder, &scoring("killed", 3, 2000), None);
    wait_until(|| folder.join("killed/tasks/task-1").exists());
    run.send_signal(1, "KILL");
    assert_eq!(run.wait_for_exit(None), [Some(75), None, Some(75)]);
    assert!(!folder.join("killed/results.json").exists());
    let told = run.failure_message(0);

    assert!(told.starts_with("worker 1 (rank 1) was lost"), "{told}");

    // Worker 0 alone reads weights; every worker reads the vocabulary.
    let mut astray = scoring("astray", 2, 1);
    let mut vocabulary = small::train_config(folder, "unused").vocabulary;
    vocabulary.as_mut().unwrap().uri = "vocab.txt".into();
    astray.vocabulary = vocabulary;
    let mut run = start_evaluation(folder, &astray, Some(1));
    assert_eq!(run.wait_for_exit(None), [Some(75), Some(78)]);
    assert!(
        run.failure_message(0)
            .starts_with("worker 1 (rank 1) failed"),
        "{}",
        run.failure_message(0)
    );
}

#[test]
fn a_worker_without_the_secret_ends_with_78_and_the_others_train() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut config = config(folder, "secret", 2);
    config.length = TrainingLength::Steps(3);
    let file = write_config(folder, "secret", &config);
    let worker = |worker| {
        let mut command = worker_command(folder, "train", &file, worker);
        command.current_dir(folder).env("RUST_LOG", "trace");
        command
    };

    let first = worker(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let other = "fedcba9876543210fedcba9876543210";
    let refused = worker(1)
        .env(ENV_RENDEZVOUS_SECRET, other)
        .output()
        .unwrap();
    let missing = worker(1)
        .env_remove(ENV_RENDEZVOUS_SECRET)
        .output()
        .unwrap();
    for (ended, expected) in [
        (&refused, "CNCLIP_RENDEZVOUS_SECRET differs between the two"),
        (&missing, "CNCLIP_RENDEZVOUS_SECRET is not set"),
    ] {
        let log = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(78), "{log}");
        assert!(log.contains(expected), "{log}");
        assert!(!log.contains(other), "{log}");
    }

    let second = worker(1).output().unwrap();
    let first = first.wait_with_output().unwrap();
    for ended in [&first, &second] {
        let log = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{log}");
        assert!(log.contains("rendezvous complete"), "{log}");
    }

    // Nothing that is written shows it: neither logs and reports nor what is in the store.
    for output in [first.stdout, first.stderr, second.stdout, second.stderr] {
        assert!(!contains_secret(&output));
    }
    assert!(files_below(folder) > 5);
}

fn contains_secret(bytes: &[u8]) -> bool {
    let secret = SHARED_SECRET.as_bytes();
    bytes.windows(secret.len()).any(|window| window == secret)
}

/// Looks for the secret in all files; how many there are.
fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                return files_below(&path);
            }

            assert!(!contains_secret(&std::fs::read(&path).unwrap()), "{path:?}");
            1
        })
        .sum()
}
