//! A run that is killed at random moments, while it saves too, ends with the bits of one that was not.
//!
//! `CNCLIP_KILLS` sets how often each of the five runs is killed.
#![cfg(test)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::time::Duration;

use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};

#[path = "support/options.rs"]
mod options;
#[path = "support/runs.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod runs;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod workers;
use workers::{WorkerProcesses, free_coordinator_address, start_training};

const KILLS: usize = 4;

/// Makes a run long enough for all kills, with a checkpoint after each step.
fn prolong(config: &mut TrainConfig) {
    config.length = TrainingLength::Steps(50 * kills() as i64);
    config.checkpoint.every_steps = 1;
    if let Some(validation) = &mut config.validation {
        validation.every_steps = 100;
    }
}

fn random_number() -> u64 {
    RandomState::new().hash_one(())
}

/// A moment within the time that a start and a few dozen steps take.
fn random_moment() -> Duration {
    Duration::from_millis(30 + random_number() % 400)
}

fn kills() -> usize {
    let wanted = std::env::var("CNCLIP_KILLS").ok();
    wanted.map_or(KILLS, |kills| kills.parse().unwrap())
}

/// The step of the newest checkpoint that was announced.
fn announced_step(run: &WorkerProcesses) -> Option<i64> {
    let report = run.last_report_if_any(0)?;
    report.checkpoints.first().map(|checkpoint| checkpoint.step)
}

fn newest_step(folder: &Path, name: &str) -> i64 {
    let newest = small::newest_checkpoint(folder, name);
    let folder = newest.file_name().unwrap().to_str().unwrap();
    folder.split('-').next().unwrap().parse().unwrap()
}

type RunConfig = fn(&Path, &str, i32) -> TrainConfig;

/// Workers meet at another port each time: the one of a killed attempt may still be in use.
fn start_attempt(folder: &Path, config: &TrainConfig) -> WorkerProcesses {
    let mut config = config.clone();
    if config.world.replicas > 1 {
        config.world.coordinator = Some(free_coordinator_address());
    }

    start_training(folder, &config, None)
}

/// Trains `ranks` ranks in each of `replicas` processes, once undisturbed and once with kills of random processes.
fn kill_until_done(run_config: RunConfig, replicas: usize, ranks: i32) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    runs::train_to_end(&small::train_config(folder, options::TEACHER));

    let [straight, killed] = ["straight", "killed"].map(|name| {
        let mut config = run_config(folder, name, ranks);
        config.world.replicas = replicas as i32;
        prolong(&mut config);
        config
    });

    let finished = vec![Some(0); replicas];
    assert_eq!(
        start_attempt(folder, &straight).wait_for_exit(None),
        finished
    );
    let mut killed_before_its_end = 0;

    while killed_before_its_end < kills() {
        let mut run = start_attempt(folder, &killed);
        std::thread::sleep(random_moment());
        let victim = random_number() as usize % replicas;
        run.send_signal(victim, "KILL");
        // A Job that lost a pod deletes the others.
        for other in (0..replicas).filter(|worker| *worker != victim) {
            run.send_signal(other, "TERM");
        }

        let exits = run.wait_for_exit(None);
        if exits.iter().all(|exit| *exit == Some(0)) {
            break;
        }

        killed_before_its_end += 1;
        if let Some(announced) = announced_step(&run) {
            assert!(
                newest_step(folder, "killed") >= announced,
                "a checkpoint that was announced is gone"
            );
        }
    }

    assert_eq!(
        start_attempt(folder, &killed).wait_for_exit(None),
        finished,
        "after {killed_before_its_end} kills"
    );

    let files = ["straight", "killed"].map(|name| options::tensor_files(folder, name));
    for ((name, expected), (_, found)) in files[0].iter().zip(&files[1]) {
        assert!(
            expected == found,
            "{name} after {killed_before_its_end} kills"
        );
    }
}

#[test]
fn runs_of_one_two_and_three_ranks_survive_every_kill() {
    for ranks in 1..=3 {
        kill_until_done(options::resnet, 1, ranks);
    }
}

#[test]
fn a_run_with_masked_patches_and_a_teacher_survives_every_kill() {
    kill_until_done(options::masked_vit, 1, 2);
}

#[test]
fn a_run_of_two_processes_survives_the_kill_of_either() {
    kill_until_done(options::resnet, 2, 1);
}
