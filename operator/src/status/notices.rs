//! What people should hear of, found by comparing the record before and after: the run's events. Pure.

use cnclip_crds::{
    names::condition,
    training::{StageState, StageStatus},
};

use crate::ledger::Ledger;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Something went wrong.
    pub warning: bool,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// What happened between two records.
pub fn between(before: &Ledger, after: &Ledger) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (index, stage) in after.stages.iter().enumerate() {
        notices.extend(of_stage(before.stages.get(index), stage));
    }

    notices.extend(of_failure(before, after));
    notices.extend(of_obstacle(before, after));
    let changes = [
        (condition::SUSPENDED, "True", "Suspended", false),
        (condition::ACCEPTED, "False", "Rejected", true),
        (condition::DEGRADED, "True", "Degraded", true),
        (condition::FAILED, "True", "Failed", true),
        (condition::COMPLETE, "True", "Complete", false),
        (condition::GATE_PASSED, "True", "GatePassed", false),
        (condition::GATE_PASSED, "False", "GateNotPassed", true),
    ];

    for (type_, status, reason, warning) in changes {
        notices.extend(of_condition(before, after, type_, status, reason, warning));
    }

    notices
}

fn of_stage(before: Option<&StageStatus>, after: &StageStatus) -> Option<Notice> {
    let attempt_before = before.map_or(0, |stage| stage.attempt);
    if after.state == StageState::Succeeded && before.is_none_or(|old| old.state != after.state) {
        let message = format!("stage {} is done after {} steps", after.name, after.step);
        return Some(normal("StageSucceeded", message));
    }

    if after.state == StageState::Skipped && before.is_none_or(|old| old.state != after.state) {
        let message = format!(
            "{}: its checkpoint was deleted before it was scored",
            after.name
        );

        return Some(Notice {
            warning: true,
            reason: "CheckpointSkipped".to_owned(),
            message,
        });
    }

    (after.attempt > attempt_before).then(|| {
        normal(
            "AttemptStarted",
            format!("stage {}, attempt {}", after.name, after.attempt),
        )
    })
}

fn of_failure(before: &Ledger, after: &Ledger) -> Option<Notice> {
    let failure = after.last_failure.as_ref()?;
    let known = before.has_failure_of(&failure.stage, failure.attempt);
    (!known).then(|| Notice {
        warning: true,
        reason: failure.class.clone(),
        message: format!(
            "stage {}, attempt {} ended: {}",
            failure.stage, failure.attempt, failure.message
        ),
    })
}

/// Why pods do not run, when that is not the ordinary course of things.
fn of_obstacle(before: &Ledger, after: &Ledger) -> Option<Notice> {
    const OBSTACLES: [&str; 7] = [
        "ImagePullFailed",
        "CredentialsMissing",
        "ContainerRefused",
        "Unschedulable",
        "Refused",
        "TrainingMissing",
        "TrainingFailed",
    ];

    let reason = |ledger: &Ledger| Some(ledger.condition(condition::RUNNING)?.reason.clone());
    let new = reason(after).filter(|new| OBSTACLES.contains(&new.as_str()))?;
    let message = after.condition(condition::RUNNING)?.message.clone();
    (reason(before).as_ref() != Some(&new)).then_some(Notice {
        warning: true,
        reason: new,
        message,
    })
}

fn of_condition(
    before: &Ledger,
    after: &Ledger,
    type_: &str,
    status: &str,
    reason: &str,
    warning: bool,
) -> Option<Notice> {
    let has = |ledger: &Ledger| {
        ledger
            .condition(type_)
            .is_some_and(|found| found.status == status)
    };

    if has(before) || !has(after) {
        return None;
    }

    let message = after.condition(type_)?.message.clone();
    Some(Notice {
        warning,
        reason: reason.to_owned(),
        message,
    })
}

fn normal(reason: &str, message: String) -> Notice {
    Notice {
        warning: false,
        reason: reason.to_owned(),
        message,
    }
}
