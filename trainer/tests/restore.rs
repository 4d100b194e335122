//! How a run with several ranks comes by its weights: rank 0 alone reads them, each byte once.
#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;

use cnclip::checkpoint::{MOMENTS_FILE, UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};

#[path = "support/object_server.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod object_server;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/scores.rs"]
mod scores;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of ranks")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod workers;
use object_server::ObjectServer;
use runs::{train_to_end, train_until};
use workers::{start_evaluation_with, start_training_with};

/// A run of three ranks with weights, their average and moments.
fn config(folder: &Path, name: &str) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.global_batch_size = 6;
    config.world.devices = 3;
    config.optimizer.average_decay = Some(0.9);
    config
}

/// The same run in a store that is this folder.
fn in_store(config: &TrainConfig, server: &ObjectServer) -> TrainConfig {
    TrainConfig {
        artifacts: server.uri(&config.run.name),
        ..config.clone()
    }
}

fn train_in_store(folder: &Path, config: &TrainConfig, server: &ObjectServer) -> Option<i32> {
    let config = in_store(config, server);
    let mut run = start_training_with(folder, &config, None, &server.environment());
    run.wait_for_exit(None)[0]
}

/// How often each file of a folder was read, in whole.
fn times_read(
    read: &BTreeMap<String, u64>,
    folder: &Path,
    checkpoint: &Path,
) -> BTreeMap<String, f64> {
    let files = std::fs::read_dir(checkpoint).unwrap().map(|file| {
        let file = file.unwrap();
        let key = file
            .path()
            .strip_prefix(folder)
            .unwrap()
            .display()
            .to_string();
        let read = read.get(&key).copied().unwrap_or_default() as f64;
        let name = file.file_name().into_string().unwrap();
        (name, read / file.metadata().unwrap().len() as f64)
    });

    files.collect()
}

#[test]
fn three_ranks_read_each_byte_of_a_checkpoint_once_and_go_on_as_one_that_never_stopped() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    train_to_end(&config(folder, "straight"));
    let resumed = TrainConfig {
        // None is written before the last step, and none removed.
        checkpoint: serde_json::from_str(r#"{"everySteps": 1000, "keep": 9}"#).unwrap(),
        validation: None,
        ..config(folder, "resumed")
    };

    let straight = TrainConfig {
        artifacts: folder.join("straight-without").display().to_string(),
        ..resumed.clone()
    };
    train_to_end(&straight);

    train_until(&resumed, 4).0.unwrap_err();
    let checkpoint = small::newest_checkpoint(folder, "resumed");
    let server = ObjectServer::start(folder);
    assert_eq!(train_in_store(folder, &resumed, &server), Some(0));

    let times = times_read(&server.take_bytes_read(), folder, &checkpoint);
    for name in [
        WEIGHTS_FILE,
        UNAVERAGED_WEIGHTS_FILE,
        MOMENTS_FILE,
        "state.json",
        "metrics.jsonl",
    ] {
        assert_eq!(times[name], 1.0, "{name}: {times:?}");
    }

    let [right, found] =
        ["straight-without", "resumed"].map(|name| small::final_weights(folder, name));
    assert!(right == found);
}

#[test]
fn three_ranks_pass_over_a_damaged_newest_checkpoint_together() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let expected = train_to_end(&config(folder, "straight"));
    let weights = small::final_weights(folder, "straight");
    for file in [
        WEIGHTS_FILE,
        UNAVERAGED_WEIGHTS_FILE,
        MOMENTS_FILE,
        "metrics.jsonl",
    ] {
        let name = format!("damaged-{file}");
        let config = config(folder, &name);
        train_until(&config, 6).0.unwrap_err();
        small::flip_a_byte(&small::newest_checkpoint(folder, &name).join(file));

        let report = train_to_end(&config);
        assert_eq!(
            (report.step, report.loss),
            (expected.step, expected.loss),
            "{file}"
        );
        assert!(small::final_weights(folder, &name) == weights, "{file}");
    }
}

#[test]
fn initial_weights_and_a_teacher_are_read_by_one_rank_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    train_to_end(&small::train_config(folder, "before"));
    train_to_end(&small::train_config(folder, "teacher"));
    let server = ObjectServer::start(folder);
    let mut config = config(folder, "after");
    config.initial_weights.model = Some(server.uri("before/train"));
    let teacher = server.uri("teacher/train");
    config.distillation = Some(DistillationConfig {
        teacher,
        weight: 1.0,
    });
    assert_eq!(train_in_store(folder, &config, &server), Some(0));

    let read = server.take_bytes_read();
    for name in ["before", "teacher"] {
        let last = small::validations(folder, name);
        let checkpoint = small::newest_checkpoint(folder, name);
        let times = times_read(&read, folder, &checkpoint);
        assert_eq!(times[WEIGHTS_FILE], 1.0, "{name}: {times:?}, {last:?}");
    }
}

#[test]
fn an_evaluation_of_three_ranks_reads_its_checkpoint_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    train_to_end(&small::train_config(folder, "run"));
    let server = ObjectServer::start(folder);
    let mut config = scores::evaluation_config(folder, ("run", "scores"), 1);
    config.checkpoint = server.uri("run/train");
    config.world.devices = 3;
    let mut run = start_evaluation_with(folder, &config, None, &server.environment());
    assert_eq!(run.wait_for_exit(None), [Some(0)]);

    let read = server.take_bytes_read();
    let checkpoint = small::newest_checkpoint(folder, "run");
    let times = times_read(&read, folder, &checkpoint);
    assert_eq!(times[WEIGHTS_FILE], 1.0, "{times:?}");
    let (tasks, _) = scores::read_scores(folder, "scores");
    assert_eq!(tasks.len(), 1);
}
