//! What survives a stop at any step: a run that goes on ends where one that never stopped ends, and
//! every obstacle on the way has an answer.
#![cfg(test)]

use std::path::Path;

use cnclip::error::Error;
use cnclip_compute::digest::sha256;
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::model::{ImageTower, ModelConfig, VitConfig};
use cnclip_crds::stage::{FrozenTower, MicroBatch, Precision};
use cnclip_crds::trainer_config::{PinnedFile, TrainConfig};

#[path = "support/runs.rs"]
mod runs;
#[path = "support/small.rs"]
mod small;
use runs::{train_to_end, train_until};
use small::STEPS;

fn refused(config: &TrainConfig, exit: TrainerExit, expected: &[&str]) {
    let error = train_until(config, u64::MAX).0.unwrap_err();
    assert_eq!(error.exit_code(), exit, "{error}");
    for part in expected {
        assert!(error.to_string().contains(part), "no {part:?} in: {error}");
    }
}

#[test]
fn a_run_stopped_at_any_step_ends_with_the_same_weights_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let straight = small::train_config(folder.path(), "straight");
    let expected = train_to_end(&straight);
    let weights = small::final_weights(folder.path(), "straight");
    let validations = small::validations(folder.path(), "straight");
    assert_eq!(validations.len(), 2, "after step 5 and after the last");

    // Two of the stops are with a validation that is due: it is made by the attempt that goes on.
    for stop in 1..=STEPS {
        let name = format!("stopped-{stop}");
        let config = small::train_config(folder.path(), &name);
        let (stopped, _) = train_until(&config, stop);
        assert!(
            matches!(stopped, Err(Error::Interrupted { step }) if step == stop),
            "{stopped:?}"
        );

        let report = train_to_end(&config);
        assert_eq!(report.step, expected.step);
        assert_eq!(report.samples_seen, expected.samples_seen);
        assert_eq!(
            report.loss, expected.loss,
            "the last loss after a stop at {stop}"
        );

        assert!(
            small::final_weights(folder.path(), &name) == weights,
            "weights after {stop}"
        );

        let found = small::validations(folder.path(), &name);
        assert_eq!(found, validations, "recalls after a stop at {stop}");
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let expected = train_to_end(&small::train_config(folder.path(), "straight"));
    let config = small::train_config(folder.path(), "damaged");
    train_until(&config, 6).0.unwrap_err();
    small::flip_a_byte(
        &small::newest_checkpoint(folder.path(), "damaged").join("weights.safetensors"),
    );

    let report = train_to_end(&config);
    assert_eq!((report.step, report.loss), (expected.step, expected.loss));
}

#[test]
fn where_every_checkpoint_is_damaged_the_run_ends_and_names_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = small::train_config(folder.path(), "damaged");
    train_until(&config, 6).0.unwrap_err();

    for checkpoint in small::checkpoints(folder.path(), "damaged") {
        small::flip_a_byte(&checkpoint.join("moments.safetensors"));
    }

    refused(
        &config,
        TrainerExit::Data,
        &[
            "moments.safetensors",
            "was changed after it was written",
            "Restore",
        ],
    );
}

#[test]
fn going_on_with_another_learning_rate_or_other_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small::train_config(folder.path(), "run");
    train_until(&config, 2).0.unwrap_err();
    config.optimizer.learning_rate *= 2.0;
    refused(
        &config,
        TrainerExit::Config,
        &["optimizer.learningRate (0.001 → 0.002)", "Restore"],
    );
    let mut config = small::train_config(folder.path(), "run");

    config.dataset = small::write_dataset(&folder.path().join("other"), 1);
    refused(&config, TrainerExit::Config, &["trained on other data"]);
}

#[test]
fn resuming_with_another_recipe_is_refused_and_names_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let saved = || small::train_config(folder.path(), "run");
    train_until(&saved(), 2).0.unwrap_err();

    // The other validation data set must exist, or it would be refused for that.
    let dataset = saved().validation.unwrap().dataset;
    let other = format!("{}-other", dataset.trim_end_matches('/'));
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(&dataset).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), Path::new(&other).join(file.file_name())).unwrap();
    }

    type Change = fn(&mut TrainConfig);
    let rows: [(Change, &str); 4] = [
        (
            |c| c.world.precision = Precision::Bf16,
            "precision (\"Fp32\" → \"Bf16\")",
        ),
        (
            |c| c.validation.as_mut().unwrap().dataset.push_str("-other"),
            "validationDataset (",
        ),
        (
            |c| c.micro_batch_size = Some(MicroBatch::Pairs(2)),
            "microBatchSize (5 → 2)",
        ),
        (|c| c.world.devices = 5, "ranks (1 → 5)"),
    ];

    for (change, expected) in rows {
        let mut config = saved();
        change(&mut config);
        refused(
            &config,
            TrainerExit::Config,
            &["another recipe", expected, "Restore"],
        );
    }

    let mut config = saved();
    let vocabulary = config.vocabulary.as_mut().unwrap();
    // An unused entry more: another digest, the same tokens.
    let text = std::fs::read_to_string(&vocabulary.uri).unwrap() + "[unused]\n";
    let path = folder.path().join("other.txt");
    std::fs::write(&path, &text).unwrap();
    *vocabulary = PinnedFile {
        uri: path.display().to_string(),
        sha256: sha256(text.as_bytes()),
    };

    config.model.text.vocab_size = 8;
    refused(&config, TrainerExit::Config, &["vocabulary (", "vocabSize"]);
}

#[test]
fn resuming_with_another_report_interval_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small::train_config(folder.path(), "run");
    train_until(&config, 2).0.unwrap_err();
    config.report_every_steps = 2;
    config.checkpoint.keep = 1;
    let report = train_to_end(&config);
    assert_eq!(report.step, STEPS as i64);
}

#[test]
fn an_older_attempt_cannot_write_beside_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small::train_config(folder.path(), "run");
    config.run.attempt = 2;
    train_until(&config, 2).0.unwrap_err();
    config.run.attempt = 1;
    refused(
        &config,
        TrainerExit::Config,
        &["attempt 2 writes there, this is attempt 1"],
    );
}

#[test]
fn a_later_stage_begins_with_the_weights_that_the_one_before_ended_with() {
    let folder = tempfile::tempdir().unwrap();
    train_to_end(&small::train_config(folder.path(), "first"));
    let mut config = small::train_config(folder.path(), "second");
    config.initial_weights.model = Some(small::stage_uri(folder.path(), "first"));
    config.freeze = FrozenTower::Image;
    train_to_end(&config);
    let (first, second) = ["first", "second"]
        .map(|name| small::final_tensors(folder.path(), name))
        .into();

    for (name, tensor) in &first {
        let same = second[name] == *tensor;
        assert_eq!(
            same,
            name.starts_with("visual."),
            "{name}: frozen keeps, the rest is trained"
        );
    }
}

#[test]
fn what_can_never_work_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = || small::train_config(folder.path(), "never");
    let vocabulary = |uri: &Path, sha256: &str| {
        Some(PinnedFile {
            uri: uri.display().to_string(),
            sha256: sha256.to_owned(),
        })
    };

    let known = fresh().vocabulary.unwrap();
    let rows: [(&[&str], TrainConfig); 9] = [
        (&["maskedPatchesPercent is 50", "no patches"], {
            let mut config = fresh();
            config.masked_patches_percent = 50;
            config
        }),
        (&["has 7 entries", "vocabSize is 6"], {
            let mut config = fresh();
            config.model.text.vocab_size = 6;
            config
        }),
        (&["world.coordinator is", "2 workers", "host:port"], {
            let mut config = fresh();
            config.world.replicas = 2;
            config
        }),
        (&["learningRate is NaN", "positive"], {
            let mut config = fresh();
            config.optimizer.learning_rate = f64::NAN;
            config
        }),
        (&["warmupSteps is 99", "only"], {
            let mut config = fresh();
            config.optimizer.warmup_steps = 99;
            config
        }),
        (&["global batch of 1000", "Set the global batch size"], {
            let mut config = fresh();
            config.global_batch_size = 1000;
            config
        }),
        (
            &["nowhere", "index.json"],
            TrainConfig {
                dataset: "/nowhere/at/all".into(),
                ..fresh()
            },
        ),
        (
            &[&known.uri, "SHA-256", &"0".repeat(64)],
            TrainConfig {
                vocabulary: vocabulary(Path::new(&known.uri), &"0".repeat(64)),
                ..fresh()
            },
        ),
        (
            &["/nowhere/vocab.txt"],
            TrainConfig {
                vocabulary: vocabulary(Path::new("/nowhere/vocab.txt"), &known.sha256),
                ..fresh()
            },
        ),
    ];

    for (expected, config) in rows {
        refused(&config, TrainerExit::Config, expected);
        assert!(!Path::new(&small::stage_uri(folder.path(), "never")).exists());
    }
}

#[test]
fn a_run_in_micro_batches_survives_a_stop_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str| TrainConfig {
        micro_batch_size: Some(MicroBatch::Pairs(2)),
        ..small::train_config(folder.path(), name)
    };

    let expected = train_to_end(&config("straight"));
    train_until(&config("stopped"), 3).0.unwrap_err();
    assert_eq!(train_to_end(&config("stopped")).loss, expected.loss);
    let [straight, stopped] =
        ["straight", "stopped"].map(|name| small::final_weights(folder.path(), name));

    assert!(straight == stopped);
}

#[test]
fn a_run_that_chooses_how_much_it_computes_at_once_says_so_and_ends_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        let plain = small::train_config(folder.path(), name);
        let vit = VitConfig {
            layers: 2,
            width: 8,
            patch_size: 16,
            head_width: 4,
        };

        let image = ImageTower {
            resolution: 32,
            vit: Some(vit),
            resnet: None,
        };

        TrainConfig {
            model: ModelConfig {
                image,
                ..plain.model
            },
            ..plain
        }
    };

    let straight = train_to_end(&config("straight"));
    let auto = |name: &str, halve_micro_batch| TrainConfig {
        micro_batch_size: Some(MicroBatch::AUTO),
        halve_micro_batch,
        ..config(name)
    };

    for (name, halved, at_once) in [("chosen", false, 5), ("halved", true, 3)] {
        let found = train_to_end(&auto(name, halved));
        let memory = found.memory.unwrap();
        assert_eq!(
            (memory.micro_batch_size, memory.gradient_checkpointing),
            (at_once, false)
        );

        assert!(
            memory.needed > 0 && memory.needed < memory.available,
            "{memory:?}"
        );

        let there = straight.loss.unwrap();
        let here = found.loss.unwrap();
        assert!((there - here).abs() < 1e-5, "{name}: {here} for {there}");
    }
}
