//! Records the results of an evaluation with their provenance. Pure.
//!
//! Results of one checkpoint are never mixed with those of another: the next one's wait until they are
//! whole, or its trainer has ended.

use cnclip_crds::{
    evaluation::{DatasetProvenance, EvaluationProvenance},
    report::{EvaluationReport, ProgressReport, TrainerActivity},
    tasks::TaskResult,
};

use crate::{
    observed::{ObservedState, WorkerPod},
    recorded_status::RecordedStatus,
};

/// Records the task results of a report.
pub(super) fn record_results(
    recorded: &mut RecordedStatus,
    report: &ProgressReport,
    observed: &ObservedState,
) {
    let Some(evaluation) = &report.evaluation else {
        return;
    };

    let Some(fresh) = build_provenance(evaluation, report, observed) else {
        return;
    };

    let same = recorded
        .provenance
        .as_ref()
        .is_some_and(|old| old.checkpoint == fresh.checkpoint);

    if same {
        // A termination message may be truncated: results that were recorded before it stay.
        let results = report.results.iter().map(TaskResult::to_status);
        results.for_each(|result| upsert_by_name(&mut recorded.results, result, |one| &one.name));
        let mut datasets = recorded
            .provenance
            .take()
            .map(|old| old.datasets)
            .unwrap_or_default();

        fresh
            .datasets
            .iter()
            .for_each(|one| upsert_by_name(&mut datasets, one.clone(), |one| &one.task));

        recorded.provenance = Some(EvaluationProvenance { datasets, ..fresh });
        return;
    }

    // Partial results are shown for the first checkpoint only: there are no others that they would
    // replace.
    let all = report.results.len() as i64 == report.steps;
    if recorded.results.is_empty() || all || report.activity == TrainerActivity::Done {
        recorded.results = report.results.iter().map(TaskResult::to_status).collect();
        recorded.provenance = Some(fresh);
    }
}

/// Replaces the element of the same name, or appends it.
fn upsert_by_name<T>(all: &mut Vec<T>, fresh: T, name: impl Fn(&T) -> &String) {
    let old = all.iter().position(|old| name(old) == name(&fresh));
    match old.and_then(|index| all.get_mut(index)) {
        Some(old) => *old = fresh,
        None => all.push(fresh),
    }
}

/// Provenance of the results of a report; `None` until the trainer has resolved the checkpoint.
fn build_provenance(
    evaluation: &EvaluationReport,
    report: &ProgressReport,
    observed: &ObservedState,
) -> Option<EvaluationProvenance> {
    let dataset = |result: &TaskResult| DatasetProvenance {
        task: result.name.clone(),
        uri: result.dataset.clone(),
        digest: result.digest.clone(),
        templates: result.measured.templates().cloned(),
    };

    let worker = observed
        .workers
        .iter()
        .find(|worker| worker.uid == report.pod_uid);

    let image = |worker: &WorkerPod| (worker.image.clone(), worker.image_id.clone());
    let (image, image_id) = worker.map(image).unwrap_or_default();
    Some(EvaluationProvenance {
        checkpoint: evaluation.checkpoint.clone()?,
        digest: evaluation.digest.clone(),
        datasets: report.results.iter().map(dataset).collect(),
        image,
        image_id,
        version: evaluation.version.clone(),
    })
}
