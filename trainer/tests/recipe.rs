//! What a stage may ask for beyond the plain recipe, seen from outside: steps that are skipped,
//! duplicates, an average, a teacher.
#![cfg(test)]

use std::path::Path;

use cnclip::checkpoint::{UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE};
use cnclip::model_resolver;
use cnclip::weights::{ModelPart, load_weights, write_safetensors};
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::tensor::{Memory, TensorViewMut};
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::stage::{DuplicatePolicy, FrozenTower};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig, TrainingLength};
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use cnclip_nn::model::teacher::Teacher;

#[path = "support/runs.rs"]
mod runs;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;
use runs::{train_to_end, train_until};
use small::STEPS;

/// A run on weights that are no numbers for one word, which one caption of the data set has.
fn poisoned(folder: &Path, name: &str) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.validation = None;
    let (_, mut params) = Clip::new(
        &config.model,
        BatchCapacity {
            batch: 1,
            context: 12,
        },
    );

    params.init_values(config.seed);
    let width = config.model.text.width as usize;
    for (segment, mut values) in params.named_tensors_mut() {
        if segment.name == WORDS {
            values.update_on_host(|values| values[4 * width..5 * width].fill(f32::NAN));
        }
    }

    let file = folder.join("poisoned.safetensors");
    std::fs::write(&file, write_safetensors(&params)).unwrap();
    config.initial_weights.model = Some(file.display().to_string());
    config
}

const WORDS: &str = "bert.embeddings.word_embeddings.weight";

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_is_counted_over_all_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let straight = train_to_end(&poisoned(folder.path(), "straight"));
    assert_eq!(straight.step, STEPS as i64);
    assert!(
        (1..STEPS as i64).contains(&straight.steps_skipped),
        "{}",
        straight.steps_skipped
    );

    assert_eq!(
        straight.samples_seen,
        5 * (straight.step - straight.steps_skipped)
    );

    assert!(straight.loss.unwrap().is_finite());
    for (name, tensor) in small::final_tensors(folder.path(), "straight") {
        let found = tensor
            .values
            .iter()
            .filter(|value| !value.is_finite())
            .count();

        let poison = if name == WORDS { 10 } else { 0 };
        assert_eq!(found, poison, "{name}");
        if name.ends_with("num_batches_tracked") {
            let taken = (straight.step - straight.steps_skipped) as f32;
            assert_eq!(
                tensor.values,
                [taken],
                "{name}: running statistics are put back"
            );
        }
    }

    let config = poisoned(folder.path(), "stopped");
    for _ in 0..2 {
        train_until(&config, 3).0.unwrap_err();
    }

    let stopped = train_to_end(&config);
    assert_eq!(stopped.steps_skipped, straight.steps_skipped);
    let weights = ["straight", "stopped"].map(|name| small::final_weights(folder.path(), name));
    assert!(weights[0] == weights[1]);
}

#[test]
fn more_skipped_steps_than_allowed_end_the_stage_and_name_what_was_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = poisoned(folder.path(), "run");
    config.max_skipped_steps = 0;
    let error = train_until(&config, u64::MAX).0.unwrap_err();
    assert_eq!(error.exit_code(), TrainerExit::Data);

    for part in [
        "the loss is NaN",
        "so far: 1",
        "maxSkippedSteps allows 0",
        "learning rate",
    ] {
        assert!(error.to_string().contains(part), "no {part:?} in: {error}");
    }

    config.max_skipped_steps = 10;
    assert_eq!(train_to_end(&config).step, STEPS as i64);
}

#[test]
fn duplicates_that_are_right_for_each_other_are_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let losses = [DuplicatePolicy::Negatives, DuplicatePolicy::Positives].map(|duplicates| {
        let mut config = small::train_config(folder.path(), &format!("{duplicates:?}"));
        // A batch of all pairs has duplicates whatever the order.
        (config.global_batch_size, config.duplicates) = (15, duplicates);
        train_until(&config, 1).1.loss.unwrap()
    });

    assert_ne!(losses[0], losses[1]);
    let mut config = small::train_config(folder.path(), "Positives");
    config.global_batch_size = 15;
    let error = train_until(&config, 1).0.unwrap_err();
    assert!(
        error.to_string().contains("another recipe: duplicates"),
        "{error}"
    );
}

#[test]
fn an_averaged_run_ends_with_the_average_and_goes_on_from_the_weights_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name, average_decay| {
        let mut config = small::train_config(folder.path(), name);
        // Strides that are long enough for another recall.
        (
            config.optimizer.learning_rate,
            config.optimizer.average_decay,
        ) = (0.1, average_decay);

        config
    };

    let plain = train_to_end(&config("plain", None));
    let straight = train_to_end(&config("straight", Some(0.9)));
    assert_eq!(
        straight.loss, plain.loss,
        "the average does not touch training"
    );

    let file = |name, file| {
        std::fs::read(small::newest_checkpoint(folder.path(), name).join(file)).unwrap()
    };

    assert!(file("straight", UNAVERAGED_WEIGHTS_FILE) == file("plain", WEIGHTS_FILE));
    assert!(file("straight", WEIGHTS_FILE) != file("plain", WEIGHTS_FILE));
    assert_ne!(
        straight.validation, plain.validation,
        "the average is what is measured"
    );

    assert!(
        !small::newest_checkpoint(folder.path(), "plain")
            .join(UNAVERAGED_WEIGHTS_FILE)
            .exists()
    );

    let stopping = config("stopped", Some(0.9));
    for _ in 0..2 {
        train_until(&stopping, 3).0.unwrap_err();
    }

    let stopped = train_to_end(&stopping);
    assert_eq!(stopped.validation, straight.validation);
    for name in [WEIGHTS_FILE, UNAVERAGED_WEIGHTS_FILE] {
        assert!(file("stopped", name) == file("straight", name), "{name}");
    }

    // Without a decay there would be nothing to go on with, and with one nothing to begin with.
    for other in [config("stopped", None), config("plain", Some(0.9))] {
        let error = train_until(&other, 1).0.unwrap_err();
        assert!(
            error.to_string().contains("another recipe: optimizer"),
            "{error}"
        );
    }
}

const BERT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/model/layouts/bert_bare.safetensors"
);

/// A run with a teacher of wider features.
fn taught(folder: &Path, name: &str, teacher: &str) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.distillation = Some(DistillationConfig {
        teacher: teacher.into(),
        weight: 2.0,
    });

    config
}

fn teacher(folder: &Path, resolution: i32) -> String {
    let name = format!("teacher-{resolution}");
    let mut config = small::train_config(folder, &name);
    (config.model.embed_dim, config.model.image.resolution) = (9, resolution);
    (config.length, config.validation, config.seed) = (TrainingLength::Steps(3), None, 8);
    train_to_end(&config);

    small::stage_uri(folder, &name)
}

#[test]
fn a_teacher_adds_its_distance_to_the_loss_and_a_stop_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path(), 32);
    let plain = train_until(&small::train_config(folder.path(), "plain"), 1)
        .1
        .loss
        .unwrap();

    let config = taught(folder.path(), "stopped", &teacher);
    let first = train_until(&config, 1).1;
    let distance = first.distillation_loss.unwrap();
    assert!((0.01..2.0).contains(&distance), "{distance}");
    assert!((first.loss.unwrap() - plain - 2.0 * distance).abs() < 1e-9);
    let stopped = train_to_end(&config);
    let straight = train_to_end(&taught(folder.path(), "straight", &teacher));

    assert_eq!(stopped.distillation_loss, straight.distillation_loss);
    assert!(
        straight.distillation_loss.unwrap() < distance,
        "what is taught is learned"
    );

    let weights = ["straight", "stopped"].map(|name| small::final_weights(folder.path(), name));
    assert!(weights[0] == weights[1]);
}

#[test]
fn a_teacher_is_known_by_its_weights_alone() {
    let folder = tempfile::tempdir().unwrap();
    let stage = teacher(folder.path(), 32);
    let file = folder.path().join("published.safetensors");
    std::fs::write(&file, small::final_weights(folder.path(), "teacher-32")).unwrap();
    let distance = |name, teacher: &str| {
        train_until(&taught(folder.path(), name, teacher), 1)
            .1
            .distillation_loss
            .unwrap()
    };

    assert_eq!(
        distance("file", file.to_str().unwrap()),
        distance("stage", &stage)
    );
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let far = teacher(folder.path(), 64);
    let frozen = |mut config: TrainConfig| {
        config.freeze = FrozenTower::Image;
        config
    };

    for (config, expected) in [
        (
            taught(folder.path(), "never", &far),
            "Name a teacher of resolution 32",
        ),
        (
            taught(folder.path(), "never", "/nowhere/at/all"),
            "/nowhere/at/all",
        ),
        (
            taught(folder.path(), "never", BERT),
            "holds no image tower with its projection, but BERT",
        ),
        (
            frozen(taught(folder.path(), "never", &far)),
            "freeze is Image",
        ),
    ] {
        let error = train_until(&config, 1).0.unwrap_err();
        assert_eq!(error.exit_code(), TrainerExit::Config, "{error}");
        assert!(
            error.to_string().contains(expected),
            "no {expected:?} in: {error}"
        );
        assert!(!Path::new(&small::stage_uri(folder.path(), "never")).exists());
    }
}

#[test]
fn a_teachers_features_are_those_of_its_model_in_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let config = small::train_config(folder.path(), "teacher");
    train_to_end(&config);
    let found =
        model_resolver::resolve_weights(&small::stage_uri(folder.path(), "teacher")).unwrap();
    let (mut clip, mut params) = Clip::new(
        &config.model,
        BatchCapacity {
            batch: 5,
            context: 12,
        },
    );

    load_weights(&mut params, &found.tensors, ModelPart::All).unwrap();
    let width = clip.feature_width();
    let mut teacher = Teacher::new(&Memory::Host, &config.model.image, width, 2);
    load_weights(&mut teacher.params, &found.tensors, ModelPart::Image).unwrap();
    let pixels: Vec<u8> = (0..5 * 3 * 32 * 32u32)
        .map(|i| ((i * 2_654_435) >> 9) as u8)
        .collect();

    let mut raw = vec![0.0; 5 * width];
    let mut unit = vec![0.0; 5 * width];
    teacher.encode_images(PixelBatch::Bytes(&pixels), TensorViewMut::Host(&mut raw));
    l2_normalize::forward(width, (&raw).into(), (&mut unit).into());
    let right = clip
        .encode_images(&mut params, PixelBatch::Bytes(&pixels))
        .to_host();

    for (found, right) in unit.iter().zip(&*right) {
        assert!((found - right).abs() < 1e-6, "{found} for {right}");
    }
}
