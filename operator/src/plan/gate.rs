//! Quality gate of an evaluation. Pure. A decided condition is kept as long as the gate and the scores do not
//! change, also if the baseline is deleted.

use cnclip_crds::{
    evaluation::{CnClipEvaluation, GateBaseline, GateSpec},
    names::condition::{COMPLETE, FAILED, GATE_PASSED},
    tasks::ResultStatus,
};
use kube::ResourceExt;

use crate::{
    observed::ObservedState,
    recorded_status::RecordedStatus,
    resolve::{RunResource, validate::parse_decimal},
    status::conditions::{self, ConditionFields},
};

/// Scores are text with two decimals: a smaller difference is rounding.
const SCORE_EPSILON: f64 = 1e-6;

/// Writes the condition `GatePassed`, if there is a gate.
pub(super) fn evaluate_gate(
    recorded: &mut RecordedStatus,
    before: &RecordedStatus,
    gate: Option<&GateSpec>,
    generation: Option<i64>,
    observed: &ObservedState,
) {
    let old = before.find_condition(GATE_PASSED);
    // Editing the gate increments the generation, so that it is decided again.
    let stays =
        old.is_some_and(|old| old.status != "Unknown" && old.observed_generation == generation);
    let verdict = match (gate, old) {
        (None, _) => None,
        (Some(_), Some(old)) if stays && before.results == recorded.results => Some(old.clone()),
        (Some(gate), _) => {
            let line = gate_condition(
                gate,
                &recorded.results,
                recorded.has_ended(),
                observed.baseline.as_ref(),
            );

            Some(conditions::merge_condition(
                before, line, generation, observed,
            ))
        }
    };

    recorded
        .conditions
        .retain(|found| found.type_ != GATE_PASSED);
    recorded.conditions.extend(verdict);
}

/// Whether the condition may still change without a change of the spec.
pub(super) fn is_undecided(recorded: &RecordedStatus) -> bool {
    recorded
        .find_condition(GATE_PASSED)
        .is_some_and(|found| found.status == "Unknown")
}

/// The condition of a gate.
fn gate_condition(
    gate: &GateSpec,
    results: &[ResultStatus],
    ended: bool,
    baseline: Option<&CnClipEvaluation>,
) -> ConditionFields {
    let verdict = gated_score(gate, results, ended).and_then(|score| match &gate.not_worse_than {
        Some(asked) => compare_to_baseline(gate, score, asked, baseline),
        None => compare_to_threshold(gate, score),
    });

    let verdict = verdict.unwrap_or_else(|undecided| undecided);
    ConditionFields {
        type_: GATE_PASSED,
        status: verdict.status,
        reason: verdict.reason.to_owned(),
        message: verdict.message,
    }
}

/// What the condition says. As an `Err`: there is nothing to compare.
struct GateVerdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl GateVerdict {
    fn passed(message: String) -> Self {
        Self {
            status: "True",
            reason: "Passed",
            message,
        }
    }

    fn failed(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }

    fn unknown(reason: &'static str, message: String) -> Self {
        Self {
            status: "Unknown",
            reason,
            message,
        }
    }
}

/// The score that the gate applies to.
fn gated_score(gate: &GateSpec, results: &[ResultStatus], ended: bool) -> Result<f64, GateVerdict> {
    let GateSpec { task, metric, .. } = gate;
    let Some(result) = results.iter().find(|result| result.name == *task) else {
        // False, not Unknown, after the end: a pipeline that waits for the gate must not wait
        // forever.
        return Err(if ended {
            let message = format!("ended without a result of task {task}");
            GateVerdict::failed("NotScored", message)
        } else {
            let message = format!("task {task} is not scored yet");
            GateVerdict::unknown("NotScoredYet", message)
        });
    };

    parse_score(result, gate).ok_or_else(|| {
        let message = format!("task {task} has no {metric}: {}", describe_metrics(result));
        GateVerdict::failed("TaskHasNoSuchMetric", message)
    })
}

fn parse_score(result: &ResultStatus, gate: &GateSpec) -> Option<f64> {
    parse_decimal(result.find_score(gate.metric)?)
}

fn describe_metrics(result: &ResultStatus) -> String {
    let names: Vec<_> = result
        .all_scores()
        .into_iter()
        .map(|(metric, _)| metric.name())
        .collect();

    if names.is_empty() {
        return "its data set does not say what belongs together".to_owned();
    }

    format!("it has {}", names.join(", "))
}

fn compare_to_threshold(gate: &GateSpec, score: f64) -> Result<GateVerdict, GateVerdict> {
    let asked = gate.at_least.as_deref().unwrap_or_default();
    let passes = parse_decimal(asked).is_some_and(|least| score + SCORE_EPSILON >= least);
    let GateSpec { task, metric, .. } = gate;
    let message = format!("{metric} of task {task} is {score:.2}, and must be at least {asked}");
    Ok(if passes {
        GateVerdict::passed(message)
    } else {
        GateVerdict::failed("BelowTheGate", message)
    })
}

fn compare_to_baseline(
    gate: &GateSpec,
    score: f64,
    asked: &GateBaseline,
    baseline: Option<&CnClipEvaluation>,
) -> Result<GateVerdict, GateVerdict> {
    let other = baseline_score(gate, asked, baseline)?;
    let GateBaseline {
        evaluation_name,
        tolerance,
    } = asked;

    let passes = parse_decimal(tolerance)
        .is_some_and(|tolerance| score + tolerance + SCORE_EPSILON >= other);
    let GateSpec { task, metric, .. } = gate;
    let message = format!(
        "{metric} of task {task} is {score:.2}; that of {evaluation_name} is {other:.2}, and \
         {tolerance} less would pass"
    );

    Ok(if passes {
        GateVerdict::passed(message)
    } else {
        GateVerdict::failed("WorseThanBaseline", message)
    })
}

/// The score of the baseline.
fn baseline_score(
    gate: &GateSpec,
    asked: &GateBaseline,
    baseline: Option<&CnClipEvaluation>,
) -> Result<f64, GateVerdict> {
    let task = &gate.task;
    let name = &asked.evaluation_name;
    // Unknown: the order in which two manifests are applied must not decide the gate.
    let Some(baseline) = baseline else {
        let message = format!(
            "waits for CnClipEvaluation {name}, which is not in the namespace: apply it, or correct \
             spec.gate.notWorseThan.evaluationName"
        );

        return Err(GateVerdict::unknown("BaselineMissing", message));
    };

    if !baseline.spec.tasks.iter().any(|found| found.name == *task) {
        let message = format!("{} has no task {task}", baseline.name_any());
        return Err(GateVerdict::failed("BaselineHasNoSuchTask", message));
    }

    let recorded = baseline.recorded_status();
    let Some(result) = recorded.results.iter().find(|result| result.name == *task) else {
        return Err(
            if recorded.is_condition_true(FAILED) || recorded.is_condition_true(COMPLETE) {
                let message = format!("{name} ended without a result of task {task}");
                GateVerdict::failed("BaselineNotScored", message)
            } else {
                let message = format!("waits until {name} has scored task {task}");
                GateVerdict::unknown("WaitingForBaseline", message)
            },
        );
    };

    parse_score(result, gate).ok_or_else(|| {
        let message = format!(
            "task {task} of {name} has no {}: {}",
            gate.metric,
            describe_metrics(result)
        );

        GateVerdict::failed("BaselineHasNoSuchMetric", message)
    })
}

#[cfg(test)]
mod tests;
