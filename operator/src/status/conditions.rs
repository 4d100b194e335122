//! How a run stands, as conditions: all of them from the first write on, each with the time of its
//! last change. Pure.

use cnclip_crds::{
    names::condition,
    training::{CheckpointStatus, StageState, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{ledger::Ledger, observed::Observed, plan::Standing, time};

/// Seconds without an answer after which a report is stale.
const ANSWER_SECONDS: i64 = 60;
/// Seconds without a new report after which a trainer that still answers is stale: longer than a
/// validation over a large set takes.
const REPORT_SECONDS: i64 = 900;

/// Type, status, reason and message.
pub(crate) type Line = (&'static str, &'static str, String, String);

/// Writes all conditions of a run but that of its gate, which stays as it is, and which generation they
/// speak of.
pub fn write(ledger: &mut Ledger, standing: &Standing, generation: Option<i64>, seen: &Observed) {
    let lines = [
        accepted(standing, generation),
        running(standing),
        progressing(ledger, standing, seen),
        checkpoint(ledger.checkpoints.first()),
        degraded(ledger),
        suspended(standing),
        complete(standing),
        failed(standing),
    ];

    let fresh = lines
        .into_iter()
        .map(|line| merged(ledger, line, generation, seen));

    let gate = ledger.condition(condition::GATE_PASSED).cloned();
    ledger.conditions = fresh.chain(gate).collect();
    ledger.observed_generation = generation;
}

/// Keeps the time of the last change where the status did not change.
pub(crate) fn merged(
    ledger: &Ledger,
    line: Line,
    generation: Option<i64>,
    seen: &Observed,
) -> Condition {
    let (type_, status, reason, message) = line;
    let same = ledger.condition(type_).filter(|old| old.status == status);
    Condition {
        last_transition_time: same.map_or(Time(seen.now), |old| old.last_transition_time.clone()),
        message,
        observed_generation: generation,
        reason,
        status: status.to_owned(),
        type_: type_.to_owned(),
    }
}

fn line(
    type_: &'static str,
    status: &'static str,
    reason: &str,
    message: impl Into<String>,
) -> Line {
    (type_, status, reason.to_owned(), message.into())
}

fn accepted(standing: &Standing, generation: Option<i64>) -> Line {
    match standing {
        Standing::Rejected(cause) => line(
            condition::ACCEPTED,
            "False",
            cause.reason,
            cause.message.clone(),
        ),
        _ => {
            let message = format!("generation {}", generation.unwrap_or_default());
            line(condition::ACCEPTED, "True", "Valid", message)
        }
    }
}

fn running(standing: &Standing) -> Line {
    let (status, reason, message) = match standing {
        Standing::Running(message) => ("True", "StageRunning", message.clone()),
        Standing::Waiting(cause) => ("False", cause.reason, cause.message.clone()),
        Standing::Rejected(_) => ("False", "Rejected", String::new()),
        Standing::Suspended(message) => ("False", "Suspended", message.clone()),
        Standing::Complete(_) => ("False", "Complete", String::new()),
        Standing::Failed(_) => ("False", "Failed", String::new()),
    };

    line(condition::RUNNING, status, reason, message)
}

fn progressing(ledger: &Ledger, standing: &Standing, seen: &Observed) -> Line {
    let stage = ledger
        .stages
        .iter()
        .find(|stage| stage.state == StageState::Running);

    let (Standing::Running(_), Some(stage)) = (standing, stage) else {
        return line(condition::PROGRESSING, "False", "NotRunning", "");
    };

    let Some(reported_at) = &stage.reported_at else {
        let message = "the trainer has not reported yet; it reads its data and its weights first";
        return line(condition::PROGRESSING, "Unknown", "NoReport", message);
    };

    let limit = if seen.report.is_some() {
        REPORT_SECONDS
    } else {
        ANSWER_SECONDS
    };

    if time::seconds_since(reported_at, seen.now) <= limit {
        let message = step_in_words(stage);
        return line(condition::PROGRESSING, "True", "ReportsFresh", message);
    }

    let message = format!(
        "{}, reported at {reported_at} and nothing since",
        step_in_words(stage)
    );

    line(condition::PROGRESSING, "Unknown", "ReportsStale", message)
}

fn step_in_words(stage: &StageStatus) -> String {
    match stage.steps {
        0 => format!("step {}", stage.step),
        steps => format!("step {} of {steps}", stage.step),
    }
}

fn checkpoint(newest: Option<&CheckpointStatus>) -> Line {
    match newest {
        Some(newest) => {
            let message = format!(
                "stage {}, step {}, {}, {}",
                newest.stage, newest.step, newest.uri, newest.written_at
            );

            line(condition::CHECKPOINT_VERIFIED, "True", "Verified", message)
        }
        None => line(
            condition::CHECKPOINT_VERIFIED,
            "False",
            "NoCheckpoint",
            "none was made yet",
        ),
    }
}

fn degraded(ledger: &Ledger) -> Line {
    let skipped: i64 = ledger
        .stages
        .iter()
        .map(|stage| stage.samples_skipped)
        .sum();

    if skipped > 0 {
        let message =
            format!("{skipped} samples could not be used and were skipped; the log names them");
        return line(condition::DEGRADED, "True", "SamplesSkipped", message);
    }

    let going_on = |stage: &&StageStatus| stage.state != StageState::Succeeded;
    let halved = ledger
        .stages
        .iter()
        .filter(going_on)
        .find(|stage| stage.micro_batch_halved);

    if let Some(StageStatus { name, .. }) = halved {
        let message = format!(
            "stage {name} ran out of memory: its workers compute half as many pairs at once as they \
             would choose, which is slower and gives the same gradients"
        );

        return line(condition::DEGRADED, "True", "MicroBatchHalved", message);
    }

    line(condition::DEGRADED, "False", "AsExpected", "")
}

fn suspended(standing: &Standing) -> Line {
    match standing {
        Standing::Suspended(message) => {
            line(condition::SUSPENDED, "True", "ByUser", message.clone())
        }
        _ => line(condition::SUSPENDED, "False", "NotSuspended", ""),
    }
}

fn complete(standing: &Standing) -> Line {
    match standing {
        Standing::Complete(message) => line(condition::COMPLETE, "True", "Done", message.clone()),
        Standing::Failed(_) => line(condition::COMPLETE, "False", "Failed", ""),
        Standing::Rejected(_) => line(condition::COMPLETE, "Unknown", "Rejected", ""),
        Standing::Waiting(_) | Standing::Suspended(_) => {
            line(condition::COMPLETE, "Unknown", "Waiting", "")
        }
        Standing::Running(_) => line(condition::COMPLETE, "Unknown", "Running", ""),
    }
}

fn failed(standing: &Standing) -> Line {
    match standing {
        Standing::Failed(cause) => line(
            condition::FAILED,
            "True",
            cause.reason,
            cause.message.clone(),
        ),
        _ => line(condition::FAILED, "False", "NotFailed", ""),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::Report;

    use super::*;
    use crate::{
        seen::{NOW, at},
        work::Cause,
    };

    fn seen(seconds: i64, answers: bool) -> Observed {
        Observed {
            now: at(seconds),
            report: answers.then(Report::default),
            ..Observed::default()
        }
    }

    fn stage(reported_at: Option<i64>, skipped: i64) -> StageStatus {
        StageStatus {
            name: "align".to_owned(),
            state: StageState::Running,
            step: 7,
            steps: 9,
            samples_skipped: skipped,
            reported_at: reported_at.map(|seconds| time::rfc3339(at(seconds))),
            ..StageStatus::default()
        }
    }

    #[test]
    fn all_conditions_are_there_from_the_first_write_on() {
        let mut ledger = Ledger::default();
        write(
            &mut ledger,
            &Standing::Waiting(Cause::new("Starting", "")),
            Some(3),
            &seen(0, false),
        );

        let types: Vec<_> = ledger
            .conditions
            .iter()
            .map(|found| found.type_.as_str())
            .collect();

        let expected = [
            "Accepted",
            "Running",
            "Progressing",
            "CheckpointVerified",
            "Degraded",
            "Suspended",
            "Complete",
            "Failed",
        ];

        assert_eq!(types, expected);
        for found in &ledger.conditions {
            assert_eq!(found.observed_generation, Some(3), "{}", found.type_);
            assert!(!found.reason.is_empty(), "{}", found.type_);
        }

        assert_eq!(ledger.observed_generation, Some(3));
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let mut ledger = Ledger::default();
        let waiting = |reason| Standing::Waiting(Cause::new(reason, ""));
        write(&mut ledger, &waiting("Starting"), Some(1), &seen(0, false));
        write(
            &mut ledger,
            &waiting("Unschedulable"),
            Some(1),
            &seen(10, false),
        );

        let running = ledger.condition("Running").unwrap();
        assert_eq!(running.last_transition_time.0.as_second(), NOW);
        assert_eq!(running.reason, "Unschedulable");
        write(
            &mut ledger,
            &Standing::Running(String::new()),
            Some(1),
            &seen(20, false),
        );

        let changed = |type_| {
            ledger
                .condition(type_)
                .unwrap()
                .last_transition_time
                .0
                .as_second()
        };

        assert_eq!(changed("Running"), NOW + 20);
        assert_eq!(changed("Accepted"), NOW);
    }

    #[test]
    fn a_report_is_fresh_until_it_is_not() {
        let rows = [
            (None, 0, false, "Unknown NoReport"),
            (Some(0), 60, false, "True ReportsFresh"),
            (Some(0), 61, false, "Unknown ReportsStale"),
            (Some(0), 900, true, "True ReportsFresh"),
            (Some(0), 901, true, "Unknown ReportsStale"),
        ];

        for (reported_at, seconds, answers, expected) in rows {
            let mut ledger = Ledger {
                stages: vec![stage(reported_at, 0)],
                ..Ledger::default()
            };

            write(
                &mut ledger,
                &Standing::Running(String::new()),
                None,
                &seen(seconds, answers),
            );

            let found = ledger.condition("Progressing").unwrap();
            assert_eq!(format!("{} {}", found.status, found.reason), expected);
        }
    }

    #[test]
    fn at_most_one_of_the_ends_is_true() {
        let cause = || Cause::new("Why", "");
        let rows = [
            (
                Standing::Rejected(cause()),
                "False False Unknown False False",
            ),
            (Standing::Waiting(cause()), "True False Unknown False False"),
            (
                Standing::Running(String::new()),
                "True True Unknown False False",
            ),
            (
                Standing::Suspended(String::new()),
                "True False Unknown False True",
            ),
            (
                Standing::Complete(String::new()),
                "True False True False False",
            ),
            (Standing::Failed(cause()), "True False False True False"),
        ];

        for (standing, expected) in rows {
            let mut ledger = Ledger::default();
            write(&mut ledger, &standing, None, &seen(0, false));
            let status = ["Accepted", "Running", "Complete", "Failed", "Suspended"]
                .map(|type_| ledger.condition(type_).unwrap().status.clone());
            assert_eq!(status.join(" "), expected, "{standing:?}");
        }
    }

    #[test]
    fn skipped_samples_degrade_a_run() {
        let mut ledger = Ledger {
            stages: vec![stage(Some(0), 3)],
            ..Ledger::default()
        };

        write(
            &mut ledger,
            &Standing::Running(String::new()),
            None,
            &seen(0, true),
        );

        assert!(ledger.is("Degraded"));
        assert!(
            ledger
                .condition("Degraded")
                .unwrap()
                .message
                .starts_with("3 samples")
        );
    }

    #[test]
    fn a_halved_micro_batch_degrades_a_stage_until_it_is_done() {
        for (state, degraded) in [(StageState::Running, true), (StageState::Succeeded, false)] {
            let halved = StageStatus {
                micro_batch_halved: true,
                state,
                ..stage(Some(0), 0)
            };

            let mut ledger = Ledger {
                stages: vec![halved],
                ..Ledger::default()
            };

            write(
                &mut ledger,
                &Standing::Running(String::new()),
                None,
                &seen(0, true),
            );

            assert_eq!(ledger.is("Degraded"), degraded, "{state:?}");
        }
    }
}
