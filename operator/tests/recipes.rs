//! The recipes of the paper for all five models, written from its tables. `UPDATE=1 cargo test` writes
//! them.
//!
//! # Source
//! arXiv 2211.01335 v3: tables 8 (pretraining) and 9 (fine-tuning), appendix A.2 to A.4.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use cnclip_crds::evaluation::CnClipEvaluation;
use cnclip_crds::tasks::DatasetPreset;
use cnclip_crds::training::CnClipTraining;
use cnclip_operator::observed::ObservedState;
use cnclip_operator::resolve::{RunResource, TrainerDefaults, validate};

#[path = "recipes/classification.rs"]
mod classification;
#[path = "support/committed.rs"]
mod committed;
#[path = "recipes/evaluation.rs"]
mod evaluation;
#[path = "recipes/finetune.rs"]
mod finetune;
#[path = "recipes/models.rs"]
mod models;
#[path = "recipes/pretrain.rs"]
mod pretrain;

use committed::assert_committed;
use models::MODELS;

/// Path below `charts/recipes`, and what is written there.
fn recipes() -> Vec<(String, String)> {
    let all = MODELS.iter().enumerate().flat_map(|(at, model)| {
        let tuned = finetune::DATA_SETS.iter();
        let tuned = tuned.map(move |data| (data.folder, finetune::recipe(model, data, at)));
        let pretrained = ("pretrain", pretrain::recipe(model, &pretrain::ROWS[at]));
        let path = move |(folder, yaml)| (format!("{folder}/{}.yaml", model.file), yaml);

        std::iter::once(pretrained).chain(tuned).map(path)
    });

    all.collect()
}

#[test]
fn the_committed_recipes_are_those_of_the_tables() {
    let recipes = recipes();
    assert_eq!(recipes.len(), 20);
    for (path, yaml) in recipes {
        assert_committed(&format!("charts/recipes/{path}"), &yaml);
    }
}

#[test]
fn the_committed_evaluations_are_what_the_operator_would_run() {
    for data in evaluation::DATA_SETS {
        let yaml = evaluation::recipe(&data);
        assert_committed(
            &format!("charts/recipes/evaluate/{}.yaml", data.folder),
            &yaml,
        );

        let run: CnClipEvaluation = serde_norway::from_str(&yaml).unwrap();
        if let Err(cause) = validate::validate_evaluation(&run.spec) {
            panic!("{}: {}", data.folder, cause.message);
        }

        for task in &run.spec.tasks {
            let retrieval = task.retrieval.as_ref().unwrap();
            // Every labelled task has its published numbers beside its own; MUGE's test part has neither.
            let dataset = format!("s3://data/{}/{}", data.folder, task.name);
            assert!(
                retrieval.dataset.eq_ignore_ascii_case(&dataset),
                "{}",
                retrieval.dataset
            );

            let has_labels = (data.folder, task.name.as_str()) != ("muge", "test");
            assert_eq!(retrieval.benchmark.is_some(), has_labels, "{}", data.folder);
        }
    }
}

#[test]
fn every_recipe_is_valid() {
    let defaults = TrainerDefaults {
        image: "cnclip/trainer".into(),
        cuda_image: "cnclip/trainer:cuda".into(),
        progress_interval_seconds: 10,
    };

    for (path, yaml) in recipes() {
        let run: CnClipTraining = serde_norway::from_str(&yaml).unwrap();
        let devices = run.spec.workers.replicas * run.spec.workers.devices;
        let resolved = run.resolve_run(&ObservedState::default(), &defaults);
        if let Err(reason) = resolved {
            panic!("{path}: {}", reason.message);
        }

        for stage in &run.spec.stages {
            assert_eq!(stage.global_batch_size % devices, 0, "{path}");
        }
    }
}

#[test]
fn one_evaluation_classifies_every_data_set_of_the_paper_and_the_table_of_presets_is_true() {
    let yaml = classification::recipe();
    assert_committed("charts/recipes/elevater.yaml", &yaml);
    let run: CnClipEvaluation = serde_norway::from_str(&yaml).unwrap();
    validate::validate_evaluation(&run.spec).unwrap();
    assert_eq!(run.spec.tasks.len(), 21);
    let told = include_str!("../../docs/zero-shot.md");

    for preset in DatasetPreset::ALL {
        let row = classification::row(preset);
        assert!(told.contains(&row), "docs/zero-shot.md lacks {row}");
    }
}
