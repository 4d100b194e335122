//! Whether what was measured passes the gate. Pure. A verdict stays as long as the gate and the numbers
//! do, whatever becomes of the baseline.

use cnclip_crds::{
    evaluation::{Baseline, CnClipEvaluation, Gate, ResultStatus},
    names::condition::{COMPLETE, FAILED, GATE_PASSED},
};
use kube::ResourceExt;

use super::admission::number;
use crate::{
    ledger::Ledger,
    observed::Observed,
    run::Run,
    status::conditions::{self, Line},
};

/// Numbers are text with two decimals: what is nearer than this is equal.
const EQUAL: f64 = 1e-6;

/// Puts on record whether the gate is passed; nothing of it where there is none.
pub(super) fn judge(
    ledger: &mut Ledger,
    before: &Ledger,
    gate: Option<&Gate>,
    generation: Option<i64>,
    seen: &Observed,
) {
    let old = before.condition(GATE_PASSED);
    let stays =
        old.is_some_and(|old| old.status != "Unknown" && old.observed_generation == generation);
    let verdict = match (gate, old) {
        (None, _) => None,
        (Some(_), Some(old)) if stays && before.results == ledger.results => Some(old.clone()),
        (Some(gate), _) => {
            let line = line(
                gate,
                &ledger.results,
                ledger.ended(),
                seen.baseline.as_ref(),
            );

            Some(conditions::merged(before, line, generation, seen))
        }
    };

    ledger.conditions.retain(|found| found.type_ != GATE_PASSED);
    ledger.conditions.extend(verdict);
}

/// Whether time alone may still change the verdict.
pub(super) fn is_open(ledger: &Ledger) -> bool {
    ledger
        .condition(GATE_PASSED)
        .is_some_and(|found| found.status == "Unknown")
}

/// The verdict as a condition.
fn line(
    gate: &Gate,
    results: &[ResultStatus],
    ended: bool,
    baseline: Option<&CnClipEvaluation>,
) -> Line {
    let told = own(gate, results, ended).and_then(|score| match &gate.not_worse_than {
        Some(asked) => beside(gate, score, asked, baseline),
        None => alone(gate, score),
    });

    let (status, reason, message) = told.unwrap_or_else(|undecided| undecided);
    (GATE_PASSED, status, reason.to_owned(), message)
}

/// Status, reason and message. As an error: nothing to compare.
type Verdict = (&'static str, &'static str, String);

/// The number of the gate.
fn own(gate: &Gate, results: &[ResultStatus], ended: bool) -> Result<f64, Verdict> {
    let Gate { task, metric, .. } = gate;
    let Some(result) = results.iter().find(|result| result.name == *task) else {
        return Err(if ended {
            let message = format!("ended without a result of task {task}");
            ("False", "NotScored", message)
        } else {
            (
                "Unknown",
                "NotScoredYet",
                format!("task {task} is not scored yet"),
            )
        });
    };

    score(result, gate).ok_or_else(|| {
        let message = format!("task {task} has no {metric}: {}", has(result));
        ("False", "TaskHasNoSuchMetric", message)
    })
}

fn score(result: &ResultStatus, gate: &Gate) -> Option<f64> {
    number(result.score(gate.metric)?)
}

fn has(result: &ResultStatus) -> String {
    let names: Vec<_> = result
        .scores()
        .into_iter()
        .map(|(metric, _)| metric.name())
        .collect();

    if names.is_empty() {
        return "its data set does not say what belongs together".to_owned();
    }

    format!("it has {}", names.join(", "))
}

fn alone(gate: &Gate, score: f64) -> Result<Verdict, Verdict> {
    let asked = gate.at_least.as_deref().unwrap_or_default();
    let passes = number(asked).is_some_and(|least| score + EQUAL >= least);
    let (status, reason) = if passes {
        ("True", "Passed")
    } else {
        ("False", "BelowTheGate")
    };

    let Gate { task, metric, .. } = gate;
    let message = format!("{metric} of task {task} is {score:.2}, and must be at least {asked}");
    Ok((status, reason, message))
}

fn beside(
    gate: &Gate,
    score: f64,
    asked: &Baseline,
    baseline: Option<&CnClipEvaluation>,
) -> Result<Verdict, Verdict> {
    let other = of_baseline(gate, asked, baseline)?;
    let Baseline {
        evaluation_name,
        tolerance,
    } = asked;

    let passes = number(tolerance).is_some_and(|tolerance| score + tolerance + EQUAL >= other);
    let (status, reason) = if passes {
        ("True", "Passed")
    } else {
        ("False", "WorseThanBaseline")
    };

    let Gate { task, metric, .. } = gate;
    let message = format!(
        "{metric} of task {task} is {score:.2}; that of {evaluation_name} is {other:.2}, and \
         {tolerance} less would pass"
    );

    Ok((status, reason, message))
}

/// The number that must be reached.
fn of_baseline(
    gate: &Gate,
    asked: &Baseline,
    baseline: Option<&CnClipEvaluation>,
) -> Result<f64, Verdict> {
    let task = &gate.task;
    let name = &asked.evaluation_name;
    let Some(baseline) = baseline else {
        let message = format!(
            "waits for CnClipEvaluation {name}, which is not in the namespace: apply it, or correct \
             spec.gate.notWorseThan.evaluationName"
        );

        return Err(("Unknown", "BaselineMissing", message));
    };

    if !baseline.spec.tasks.iter().any(|found| found.name == *task) {
        let message = format!("{} has no task {task}", baseline.name_any());
        return Err(("False", "BaselineHasNoSuchTask", message));
    }

    let ledger = baseline.ledger();
    let Some(result) = ledger.results.iter().find(|result| result.name == *task) else {
        return Err(if ledger.is(FAILED) || ledger.is(COMPLETE) {
            let message = format!("{name} ended without a result of task {task}");
            ("False", "BaselineNotScored", message)
        } else {
            (
                "Unknown",
                "WaitingForBaseline",
                format!("waits until {name} has scored task {task}"),
            )
        });
    };

    score(result, gate).ok_or_else(|| {
        let message = format!(
            "task {task} of {name} has no {}: {}",
            gate.metric,
            has(result)
        );

        ("False", "BaselineHasNoSuchMetric", message)
    })
}

#[cfg(test)]
mod tests;
