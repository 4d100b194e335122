//! What an evaluation measured, put on record with what it is of. Pure.
//!
//! Results of one checkpoint are never mixed with those of another: the next one's wait until they are
//! whole, or its trainer has ended.

use cnclip_crds::{
    common::{RecallStatus, RecallsStatus},
    evaluation::{
        DatasetProvenance, EvaluationProvenance, PrimaryMetricStatus, ResultStatus,
        RetrievalStatus, ThresholdStatus, ZeroShotStatus,
    },
    report::{
        EvaluationReport, ProgressReport, RecallAtK, RetrievalRecalls, SimilarityThreshold,
        TaskResult, TaskScores, TrainerActivity, ZeroShotScores,
    },
};

use crate::{
    observed::{ObservedState, WorkerPod},
    recorded_status::RecordedStatus,
};

/// Puts what a report says of results on record.
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
        // Last words hold what was told last: what was told before them stays.
        let results = report.results.iter().map(result_status);
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

    let all = report.results.len() as i64 == report.steps;
    if recorded.results.is_empty() || all || report.activity == TrainerActivity::Done {
        recorded.results = report.results.iter().map(result_status).collect();
        recorded.provenance = Some(fresh);
    }
}

/// Puts something in the place of that of the same name, or at the end.
fn upsert_by_name<T>(all: &mut Vec<T>, fresh: T, name: impl Fn(&T) -> &String) {
    let old = all.iter().position(|old| name(old) == name(&fresh));
    match old.and_then(|index| all.get_mut(index)) {
        Some(old) => *old = fresh,
        None => all.push(fresh),
    }
}

/// What a report's results are of; `None` until its trainer has found it.
fn build_provenance(
    evaluation: &EvaluationReport,
    report: &ProgressReport,
    observed: &ObservedState,
) -> Option<EvaluationProvenance> {
    let dataset = |result: &TaskResult| DatasetProvenance {
        task: result.name.clone(),
        uri: result.dataset.clone(),
        digest: result.digest.clone(),
        templates: match &result.measured {
            TaskScores::ZeroShot(scores) => Some(scores.templates.clone()),
            TaskScores::Retrieval(_) => None,
        },
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

/// The number that a task is compared by, as text.
pub(super) fn primary_metric_status(result: &TaskResult) -> PrimaryMetricStatus {
    let metric = result.primary_metric();
    let score = result.find_score(metric).map(format_percent);
    PrimaryMetricStatus {
        task: result.name.clone(),
        metric: metric.name().to_owned(),
        score,
    }
}

fn result_status(result: &TaskResult) -> ResultStatus {
    let status = ResultStatus {
        name: result.name.clone(),
        images: result.images,
        ..ResultStatus::default()
    };

    match &result.measured {
        TaskScores::Retrieval(scores) => {
            let recalls = scores.recalls.as_ref().map(recalls_status);
            let threshold = scores.threshold.as_ref().map(threshold_status);
            let retrieval = RetrievalStatus {
                texts: scores.texts,
                recalls,
                threshold,
            };

            ResultStatus {
                retrieval: Some(retrieval),
                ..status
            }
        }
        TaskScores::ZeroShot(scores) => ResultStatus {
            zero_shot: Some(zero_shot_status(scores)),
            ..status
        },
    }
}

fn threshold_status(found: &SimilarityThreshold) -> ThresholdStatus {
    ThresholdStatus {
        reached: found.is_reached(),
        similarity: format!("{:.4}", found.similarity),
        precision: format_percent(found.precision),
        coverage: format_percent(found.coverage),
    }
}

fn zero_shot_status(scores: &ZeroShotScores) -> ZeroShotStatus {
    ZeroShotStatus {
        classes: scores.classes,
        headline: scores.headline.name().to_owned(),
        accuracy: format_percent(scores.accuracy),
        top5: format_percent(scores.top5),
        mean_per_class: format_percent(scores.mean_per_class),
        roc_auc: scores.roc_auc.map(format_percent),
        mean_average_precision: format_percent(scores.mean_average_precision),
    }
}

/// Recalls as text.
pub(super) fn recalls_status(recalls: &RetrievalRecalls) -> RecallsStatus {
    RecallsStatus {
        text_to_image: recall_status(recalls.text_to_image),
        image_to_text: recall_status(recalls.image_to_text),
    }
}

fn format_percent(value: f64) -> String {
    format!("{value:.2}")
}

fn recall_status(recall: RecallAtK) -> RecallStatus {
    RecallStatus {
        r1: format_percent(recall.r1),
        r5: format_percent(recall.r5),
        r10: format_percent(recall.r10),
        mean_recall: format_percent(recall.mean_recall),
    }
}
