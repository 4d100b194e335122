//! Trainer configuration of an evaluation. Pure.

use cnclip_crds::{
    artifacts,
    common::{ArtifactLocation, WorkersSpec},
    evaluation::CnClipEvaluation,
    tasks::TaskSpec,
    trainer_config::{EvaluateConfig, RunIdentity, pod_listen_address},
    training::CnClipTraining,
};
use kube::ResourceExt;

use crate::{
    resolve::training::{distributed_config, pinned_file},
    resolved_run::TrainerConfig,
};

/// Location of the results.
pub(super) fn resolve_artifacts(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
) -> ArtifactLocation {
    let from_training = || {
        let artifacts = &training?.spec.artifacts;
        let prefix =
            artifacts::join_uri(&artifacts.uri, &format!("evaluations/{}", run.name_any()));
        Some(ArtifactLocation {
            uri: prefix,
            credentials: artifacts.credentials.clone(),
        })
    };

    let nowhere = ArtifactLocation {
        uri: String::new(),
        credentials: None,
    };

    run.spec
        .artifacts
        .clone()
        .or_else(from_training)
        .unwrap_or(nowhere)
}

/// Workers of the spec, or one worker of the training, with all its devices.
pub(super) fn resolve_workers(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
) -> WorkersSpec {
    let from_training = || {
        Some(WorkersSpec {
            replicas: 1,
            ..training?.spec.workers.clone()
        })
    };

    run.spec
        .workers
        .clone()
        .or_else(from_training)
        .unwrap_or_default()
}

/// Complete trainer configuration of an evaluation.
pub(super) fn evaluate_config(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
    stage: &str,
    checkpoint: String,
    artifacts: String,
) -> TrainerConfig {
    let spec = &run.spec;
    let from_training = || training?.spec.model.vocabulary.as_ref();
    let config = EvaluateConfig {
        run: RunIdentity {
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
            stage: stage.to_owned(),
            attempt: 1,
        },
        checkpoint,
        vocabulary: spec
            .vocabulary
            .as_ref()
            .or_else(from_training)
            .map(pinned_file),
        tasks: spec.tasks.iter().map(TaskSpec::to_config).collect(),
        artifacts,
        batch_size: spec.batch_size,
        features: spec.features.clone(),
        max_skipped_percent: spec.max_skipped_percent.into(),
        world: distributed_config(&resolve_workers(run, training)),
        listen: Some(pod_listen_address()),
    };

    TrainerConfig::Evaluate(Box::new(config))
}
