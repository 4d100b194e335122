//! What an evaluation measured, put on record with what it is of. Pure.
//!
//! Results of one checkpoint are never mixed with those of another: the next one's wait until they are
//! whole, or its trainer has ended.

use cnclip_crds::{
    evaluation::{
        DatasetProvenance, Headline, Provenance, ResultStatus, RetrievalStatus, ThresholdStatus,
        ZeroShotStatus,
    },
    report::{
        Activity, EvaluationReport, Measured, Recall, Recalls, Report, TaskResult, Threshold,
        ZeroShotScores,
    },
    shared::{RecallStatus, RecallsStatus},
};

use crate::{
    ledger::Ledger,
    observed::{Observed, Worker},
};

/// Puts what a report says of results on record.
pub(super) fn absorb(ledger: &mut Ledger, report: &Report, seen: &Observed) {
    let Some(evaluation) = &report.evaluation else {
        return;
    };

    let Some(fresh) = provenance(evaluation, report, seen) else {
        return;
    };

    let same = ledger
        .provenance
        .as_ref()
        .is_some_and(|old| old.checkpoint == fresh.checkpoint);

    if same {
        // Last words hold what was told last: what was told before them stays.
        let results = report.results.iter().map(result);
        results.for_each(|result| put(&mut ledger.results, result, |one| &one.name));
        let mut datasets = ledger
            .provenance
            .take()
            .map(|old| old.datasets)
            .unwrap_or_default();

        fresh
            .datasets
            .iter()
            .for_each(|one| put(&mut datasets, one.clone(), |one| &one.task));

        ledger.provenance = Some(Provenance { datasets, ..fresh });
        return;
    }

    let all = report.results.len() as i64 == report.steps;
    if ledger.results.is_empty() || all || report.activity == Activity::Done {
        ledger.results = report.results.iter().map(result).collect();
        ledger.provenance = Some(fresh);
    }
}

/// Puts something in the place of that of the same name, or at the end.
fn put<T>(all: &mut Vec<T>, fresh: T, name: impl Fn(&T) -> &String) {
    let old = all.iter().position(|old| name(old) == name(&fresh));
    match old.and_then(|index| all.get_mut(index)) {
        Some(old) => *old = fresh,
        None => all.push(fresh),
    }
}

/// What a report's results are of; `None` until its trainer has found it.
fn provenance(
    evaluation: &EvaluationReport,
    report: &Report,
    seen: &Observed,
) -> Option<Provenance> {
    let dataset = |result: &TaskResult| DatasetProvenance {
        task: result.name.clone(),
        uri: result.dataset.clone(),
        digest: result.digest.clone(),
        templates: match &result.measured {
            Measured::ZeroShot(scores) => Some(scores.templates.clone()),
            Measured::Retrieval(_) => None,
        },
    };

    let worker = seen
        .workers
        .iter()
        .find(|worker| worker.uid == report.pod_uid);

    let image = |worker: &Worker| (worker.image.clone(), worker.image_id.clone());
    let (image, image_id) = worker.map(image).unwrap_or_default();
    Some(Provenance {
        checkpoint: evaluation.checkpoint.clone()?,
        digest: evaluation.digest.clone(),
        datasets: report.results.iter().map(dataset).collect(),
        image,
        image_id,
        version: evaluation.version.clone(),
    })
}

/// The number that a task is compared by, as text.
pub(super) fn headline(result: &TaskResult) -> Headline {
    let metric = result.headline();
    let score = result.score(metric).map(percent);
    Headline {
        task: result.name.clone(),
        metric: metric.name().to_owned(),
        score,
    }
}

fn result(result: &TaskResult) -> ResultStatus {
    let status = ResultStatus {
        name: result.name.clone(),
        images: result.images,
        ..ResultStatus::default()
    };

    match &result.measured {
        Measured::Retrieval(scores) => {
            let recalls = scores.recalls.as_ref().map(recalls);
            let threshold = scores.threshold.as_ref().map(threshold);
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
        Measured::ZeroShot(scores) => ResultStatus {
            zero_shot: Some(zero_shot(scores)),
            ..status
        },
    }
}

fn threshold(found: &Threshold) -> ThresholdStatus {
    ThresholdStatus {
        reached: found.is_reached(),
        similarity: format!("{:.4}", found.similarity),
        precision: percent(found.precision),
        coverage: percent(found.coverage),
    }
}

fn zero_shot(scores: &ZeroShotScores) -> ZeroShotStatus {
    ZeroShotStatus {
        classes: scores.classes,
        headline: scores.headline.name().to_owned(),
        accuracy: percent(scores.accuracy),
        top5: percent(scores.top5),
        mean_per_class: percent(scores.mean_per_class),
        roc_auc: scores.roc_auc.map(percent),
        mean_average_precision: percent(scores.mean_average_precision),
    }
}

/// Recalls as text.
pub(super) fn recalls(recalls: &Recalls) -> RecallsStatus {
    RecallsStatus {
        text_to_image: recall(recalls.text_to_image),
        image_to_text: recall(recalls.image_to_text),
    }
}

fn percent(value: f64) -> String {
    format!("{value:.2}")
}

fn recall(recall: Recall) -> RecallStatus {
    RecallStatus {
        r1: percent(recall.r1),
        r5: percent(recall.r5),
        r10: percent(recall.r10),
        mean_recall: percent(recall.mean_recall),
    }
}
