//! A run that is killed at random moments, while it saves too, ends with the bits of one that was not.
//!
//! `CNCLIP_KILLS` sets how often each of the four runs is killed.
#![cfg(test)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::time::Duration;

use cnclip_crds::model::{ImageTower, VitConfig};
use cnclip_crds::stage::{DuplicatePolicy, MicroBatch};
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};

#[path = "support/runs.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod runs;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod workers;
use workers::{WorkerProcesses, start_training};

const KILLS: usize = 4;

/// A run with all that has a state: EMA, dropout, batch normalization, accumulation, duplicates, validation.
fn config(folder: &Path, name: &str, ranks: i32) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    // Longer than all kills leave it time for.
    config.length = TrainingLength::Steps(50 * kills() as i64);
    config.global_batch_size = 6;
    config.optimizer.average_decay = Some(0.9);
    config.duplicates = DuplicatePolicy::Positives;
    config.micro_batch_size = Some(MicroBatch::Pairs(1));
    config.checkpoint.every_steps = 1;
    config.world.devices = ranks;
    if let Some(validation) = &mut config.validation {
        validation.every_steps = 100;
    }

    config
}

/// With a ViT, whose patches are masked.
fn masked_config(folder: &Path, name: &str) -> TrainConfig {
    let mut config = config(folder, name, 2);
    config.masked_patches_percent = 50;
    config.model.image = ImageTower {
        resolution: 32,
        resnet: None,
        vit: Some(VitConfig {
            layers: 1,
            width: 8,
            patch_size: 8,
            head_width: 4,
        }),
    };

    config
}

/// A moment within the time that a start and a few dozen steps take.
fn random_moment() -> Duration {
    let random = RandomState::new().hash_one(());
    Duration::from_millis(30 + random % 400)
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

fn kill_until_done(folder: &Path, straight: &TrainConfig, killed: &TrainConfig) {
    runs::train_to_end(straight);
    let name = &killed.run.name;
    let mut killed_before_its_end = 0;

    while killed_before_its_end < kills() {
        let mut run = start_training(folder, killed, None);
        std::thread::sleep(random_moment());
        run.send_signal(0, "KILL");
        if run.wait_for_exit(None) == [Some(0)] {
            break;
        }

        killed_before_its_end += 1;
        if let Some(announced) = announced_step(&run) {
            assert!(
                newest_step(folder, name) >= announced,
                "a checkpoint that was announced is gone"
            );
        }
    }

    let mut run = start_training(folder, killed, None);
    assert_eq!(
        run.wait_for_exit(None),
        [Some(0)],
        "after {killed_before_its_end} kills"
    );
    let file = |config: &TrainConfig, file: &str| {
        std::fs::read(small::newest_checkpoint(folder, &config.run.name).join(file)).unwrap()
    };

    for name in [
        "weights.safetensors",
        "unaveraged.safetensors",
        "moments.safetensors",
    ] {
        let is_equal = file(straight, name) == file(killed, name);
        assert!(is_equal, "{name} after {killed_before_its_end} kills");
    }
}

#[test]
fn runs_of_one_two_and_three_ranks_survive_every_kill() {
    for ranks in 1..=3 {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let [straight, killed] = ["straight", "killed"].map(|name| config(folder, name, ranks));
        kill_until_done(folder, &straight, &killed);
    }
}

#[test]
fn a_run_with_masked_patches_survives_every_kill() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let [straight, killed] = ["straight", "killed"].map(|name| masked_config(folder, name));
    kill_until_done(folder, &straight, &killed);
}
