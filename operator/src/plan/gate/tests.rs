use serde_json::{Value, json};

use super::*;
use crate::{cluster_fixtures::time_at, manifest_fixtures};

fn result(task: &str, mean_recall: &str) -> Value {
    let recall = json!({"r1": "58.40", "r5": "83.60", "r10": "90.00", "meanRecall": mean_recall});
    let recalls = json!({"textToImage": recall, "imageToText": recall});
    json!({"name": task, "images": 5, "retrieval": {"texts": 5, "recalls": recalls}})
}

fn unlabelled(task: &str) -> Value {
    json!({"name": task, "images": 5, "retrieval": {"texts": 5}})
}

fn results(values: &[Value]) -> Vec<ResultStatus> {
    serde_json::from_value(json!(values)).unwrap()
}

fn gate(condition: (&str, Value)) -> GateSpec {
    let mut gate = json!({"task": "valid", "metric": "textToImage.meanRecall"});
    gate[condition.0] = condition.1;
    serde_json::from_value(gate).unwrap()
}

fn condition(type_: &str) -> Value {
    json!([{"type": type_, "status": "True", "reason": "Because", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

/// What is said of a number, alone. One row a rule.
#[test]
fn a_number_passes_that_is_at_least_what_is_asked_for() {
    let rows = [
        (
            "76",
            vec![result("valid", "77.40")],
            false,
            "True Passed",
            "is 77.40, and must be at least 76",
        ),
        (
            "77.4",
            vec![result("valid", "77.40")],
            false,
            "True Passed",
            "must be at least 77.4",
        ),
        (
            "77.41",
            vec![result("valid", "77.40")],
            false,
            "False BelowTheGate",
            "is 77.40, and must be",
        ),
        (
            "0",
            vec![],
            false,
            "Unknown NotScoredYet",
            "task valid is not scored yet",
        ),
        (
            "0",
            vec![result("other", "99.00")],
            false,
            "Unknown NotScoredYet",
            "task valid is not",
        ),
        (
            "0",
            vec![],
            true,
            "False NotScored",
            "ended without a result of task valid",
        ),
        (
            "0",
            vec![unlabelled("valid")],
            false,
            "False TaskHasNoSuchMetric",
            "does not say what belongs",
        ),
    ];

    for (asked, found, ended, expected, words) in rows {
        let ConditionFields {
            status,
            reason,
            message,
            ..
        } = gate_condition(
            &gate(("atLeast", json!(asked))),
            &results(&found),
            ended,
            None,
        );

        assert_eq!(format!("{status} {reason}"), expected, "{asked} {found:?}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_classification_has_no_recall_and_says_what_it_has() {
    let zero_shot = json!({"classes": 10, "headline": "accuracy", "accuracy": "91.00", "top5": "99.00",
                           "meanPerClass": "90.00", "meanAveragePrecision": "80.00"});
    let found = results(&[json!({"name": "valid", "images": 5, "zeroShot": zero_shot})]);
    let ConditionFields {
        status,
        reason,
        message,
        ..
    } = gate_condition(&gate(("atLeast", json!("1"))), &found, false, None);
    assert_eq!((status, reason.as_str()), ("False", "TaskHasNoSuchMetric"));
    let words =
        "has no textToImage.meanRecall: it has accuracy, top5, meanPerClass, meanAveragePrecision";
    assert!(message.ends_with(words), "{message}");
}

/// Gates that compare with another evaluation: one row for each rule.
#[test]
fn a_number_passes_that_is_not_worse_than_the_baselines() {
    let of = |found: &[Value]| Some(json!({"results": found}));
    let rows = [
        (
            "0",
            None,
            "Unknown BaselineMissing",
            "CnClipEvaluation old, which is not in the namespace",
        ),
        (
            "0",
            Some(json!({})),
            "Unknown WaitingForBaseline",
            "waits until old has scored task valid",
        ),
        (
            "0",
            of(&[result("other", "1.00")]),
            "Unknown WaitingForBaseline",
            "waits until old",
        ),
        (
            "0",
            Some(json!({"conditions": condition("Failed")})),
            "False BaselineNotScored",
            "old ended",
        ),
        (
            "0",
            of(&[unlabelled("valid")]),
            "False BaselineHasNoSuchMetric",
            "task valid of old has no",
        ),
        (
            "0",
            of(&[result("valid", "77.40")]),
            "True Passed",
            "is 77.40; that of old is 77.40",
        ),
        (
            "0",
            of(&[result("valid", "77.41")]),
            "False WorseThanBaseline",
            "that of old is 77.41",
        ),
        (
            "0.5",
            of(&[result("valid", "77.90")]),
            "True Passed",
            "and 0.5 less would pass",
        ),
        (
            "0.5",
            of(&[result("valid", "77.91")]),
            "False WorseThanBaseline",
            "0.5 less would pass",
        ),
    ];

    for (tolerance, status_of_baseline, expected, words) in rows {
        let gate = gate((
            "notWorseThan",
            json!({"evaluationName": "old", "tolerance": tolerance}),
        ));

        let baseline = status_of_baseline.clone().map(|status| {
            let mut baseline = manifest_fixtures::sample_evaluation();
            baseline.status = Some(serde_json::from_value(status).unwrap());
            baseline
        });

        let own = results(&[result("valid", "77.40")]);
        let ConditionFields {
            status,
            reason,
            message,
            ..
        } = gate_condition(&gate, &own, true, baseline.as_ref());
        assert_eq!(
            format!("{status} {reason}"),
            expected,
            "{tolerance} {status_of_baseline:?}"
        );

        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_baseline_without_such_a_task_will_never_have_its_result() {
    let mut gate = gate(("notWorseThan", json!({"evaluationName": "old"})));
    gate.task = "flickr".to_owned();
    let own = results(&[result("flickr", "77.40")]);
    let ConditionFields {
        status,
        reason,
        message,
        ..
    } = gate_condition(
        &gate,
        &own,
        true,
        Some(&manifest_fixtures::sample_evaluation()),
    );
    assert_eq!(
        (status, reason.as_str()),
        ("False", "BaselineHasNoSuchTask"),
        "{message}"
    );
}

fn judged(
    before: &RecordedStatus,
    found: &[Value],
    gate: Option<&GateSpec>,
    generation: i64,
) -> RecordedStatus {
    let mut recorded = RecordedStatus {
        results: results(found),
        ..before.clone()
    };

    let observed = ObservedState {
        now: time_at(generation),
        ..ObservedState::default()
    };

    evaluate_gate(&mut recorded, before, gate, Some(generation), &observed);
    recorded
}

fn word(recorded: &RecordedStatus) -> Option<&str> {
    Some(recorded.find_condition(GATE_PASSED)?.reason.as_str())
}

#[test]
fn a_verdict_stays_until_the_gate_or_the_numbers_change() {
    let found = [result("valid", "77.40")];
    let low = gate(("atLeast", json!("76")));
    let high = gate(("atLeast", json!("80")));
    let passed = judged(&RecordedStatus::default(), &found, Some(&low), 1);
    assert_eq!(word(&passed), Some("Passed"));
    let same = judged(&passed, &found, Some(&high), 1);

    assert_eq!(
        word(&same),
        Some("Passed"),
        "the same generation has the same gate"
    );

    assert_eq!(
        word(&judged(&passed, &found, Some(&high), 2)),
        Some("BelowTheGate")
    );

    let worse = judged(&passed, &[result("valid", "60.00")], Some(&low), 1);
    assert_eq!(word(&worse), Some("BelowTheGate"));
    assert_eq!(word(&judged(&passed, &found, None, 2)), None);
    assert!(
        !is_undecided(&passed)
            && is_undecided(&judged(&RecordedStatus::default(), &[], Some(&low), 1))
    );
}
