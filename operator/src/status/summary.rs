//! Printer columns of `kubectl get`. Pure.

use cnclip_crds::{
    evaluation::EvaluationSummary,
    names::condition,
    tasks::ResultStatus,
    training::{StageState, TrainingSummary},
};

use crate::{recorded_status::RecordedStatus, time};

/// Printer columns of a training: of the current stage, or of the last one.
pub fn training_summary(recorded: &RecordedStatus) -> TrainingSummary {
    let last = recorded.stages.len().saturating_sub(1);
    let index = recorded.current_stage().unwrap_or(last);
    let Some(stage) = recorded.stages.get(index) else {
        return TrainingSummary::default();
    };

    let step = if stage.steps > 0 {
        format!("{}/{}", stage.step, stage.steps)
    } else {
        String::new()
    };

    let eta = stage
        .eta_seconds
        .filter(|_| stage.state == StageState::Running);

    TrainingSummary {
        stage: format!("{}/{} {}", index + 1, recorded.stages.len(), stage.name),
        step,
        loss: stage.loss.clone().unwrap_or_default(),
        r1: stage
            .best
            .as_ref()
            .map(|best| best.recalls.text_to_image.r1.clone())
            .unwrap_or_default(),
        samples_per_second: stage.samples_per_second.clone().unwrap_or_default(),
        eta: eta.map(time::format_duration).unwrap_or_default(),
    }
}

/// Printer columns of an evaluation: primary metric of the first task, and text-to-image recall of the first
/// retrieval task.
pub fn evaluation_summary(recorded: &RecordedStatus, tasks: usize) -> EvaluationSummary {
    let recalls = recorded
        .results
        .iter()
        .find_map(|result| result.retrieval.as_ref()?.recalls.as_ref());

    let recall = recalls
        .map(|recalls| recalls.text_to_image.clone())
        .unwrap_or_default();

    let (metric, score) = recorded
        .results
        .first()
        .and_then(primary_metric)
        .unwrap_or_default();

    EvaluationSummary {
        tasks: format!("{}/{tasks}", recorded.results.len()),
        metric,
        score,
        gate: gate_column(recorded).to_owned(),
        r1: recall.r1,
        r5: recall.r5,
        r10: recall.r10,
        mean_recall: recall.mean_recall,
    }
}

/// Name and value of the primary metric of a task.
fn primary_metric(result: &ResultStatus) -> Option<(String, String)> {
    let named = result.primary_metric_name();
    let mut scores = result.all_scores().into_iter();
    scores.find_map(|(metric, score)| {
        (metric.name() == named).then(|| (named.to_owned(), score.to_owned()))
    })
}

fn gate_column(recorded: &RecordedStatus) -> &'static str {
    match recorded
        .find_condition(condition::GATE_PASSED)
        .map(|found| found.status.as_str())
    {
        None => "",
        Some("True") => "Passed",
        Some("False") => "Failed",
        Some(_) => "Waiting",
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::training::StageStatus;

    use super::*;

    #[test]
    fn the_columns_are_those_of_the_stage_whose_turn_it_is() {
        let stage = |name: &str, state, eta_seconds| StageStatus {
            name: name.to_owned(),
            state,
            step: 4,
            steps: 8,
            eta_seconds,
            ..StageStatus::default()
        };

        let columns = |stages| {
            let summary = training_summary(&RecordedStatus {
                stages,
                ..RecordedStatus::default()
            });

            format!("{} | {} | {}", summary.stage, summary.step, summary.eta)
        };

        let done = stage("align", StageState::Succeeded, None);
        let at_work = stage("tune", StageState::Running, Some(61));
        assert_eq!(
            columns(vec![done.clone(), at_work]),
            "2/2 tune | 4/8 | 1m1s"
        );

        assert_eq!(columns(vec![done]), "1/1 align | 4/8 | ");
    }
}
