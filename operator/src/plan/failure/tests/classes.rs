//! The class and the budget of each end of a pod.

use super::*;

#[test]
fn every_end_has_its_class_and_its_budget() {
    use RetryBudget::{Application, Infrastructure, Never};
    let refused = |reason: &str| WorkerState::Ended {
        exit_code: None,
        reason: reason.to_owned(),
        message: String::new(),
    };

    let rows = [
        (None, false, ended_state(64, "Error", ""), "Usage", Never),
        (None, false, ended_state(65, "Error", ""), "Data", Never),
        (None, false, ended_state(78, "Error", ""), "Config", Never),
        (None, true, ended_state(78, "Error", ""), "Config", Never),
        (
            Some("PreemptionByScheduler"),
            true,
            ended_state(65, "Error", ""),
            "Data",
            Never,
        ),
        (
            None,
            false,
            ended_state(128, "StartError", "no such file"),
            "Image",
            Never,
        ),
        (None, false, ended_state(127, "Error", ""), "Image", Never),
        (
            None,
            false,
            ended_state(126, "ContainerCannotRun", ""),
            "Image",
            Never,
        ),
        (
            None,
            false,
            ended_state(70, "Error", ""),
            "Bug",
            Application,
        ),
        (None, false, ended_state(1, "Error", ""), "Bug", Application),
        (
            None,
            false,
            ended_state(101, "Error", ""),
            "Bug",
            Application,
        ),
        (
            None,
            false,
            ended_state(137, "OOMKilled", ""),
            "OutOfMemory",
            Application,
        ),
        (
            None,
            false,
            ended_state(1, "OOMKilled", ""),
            "OutOfMemory",
            Application,
        ),
        (
            None,
            false,
            ended_state(137, "Error", ""),
            "Killed",
            Application,
        ),
        (
            None,
            false,
            ended_state(134, "Error", ""),
            "Crashed",
            Application,
        ),
        (
            None,
            false,
            ended_state(139, "Error", ""),
            "Crashed",
            Application,
        ),
        (
            None,
            false,
            ended_state(135, "Error", ""),
            "Crashed",
            Application,
        ),
        (
            None,
            false,
            ended_state(71, "Error", ""),
            "Hang",
            Infrastructure,
        ),
        (
            None,
            false,
            ended_state(75, "Error", ""),
            "Requeued",
            Infrastructure,
        ),
        (
            None,
            false,
            ended_state(143, "Error", ""),
            "Terminated",
            Infrastructure,
        ),
        (
            None,
            true,
            ended_state(75, "Error", ""),
            "PodDeleted",
            Infrastructure,
        ),
        (
            None,
            true,
            ended_state(137, "Error", ""),
            "PodDeleted",
            Infrastructure,
        ),
        (
            Some("PreemptionByScheduler"),
            true,
            ended_state(75, "Error", ""),
            "Preempted",
            Infrastructure,
        ),
        (
            Some("PreemptionByScheduler"),
            true,
            ended_state(137, "Error", ""),
            "Preempted",
            Infrastructure,
        ),
        (
            Some("DeletionByTaintManager"),
            true,
            ended_state(137, "Error", ""),
            "NodeLost",
            Infrastructure,
        ),
        (
            Some("DeletionByPodGC"),
            true,
            refused(""),
            "NodeLost",
            Infrastructure,
        ),
        (
            Some("EvictionByEvictionAPI"),
            true,
            ended_state(75, "Error", ""),
            "Evicted",
            Infrastructure,
        ),
        (
            Some("TerminationByKubelet"),
            false,
            ended_state(137, "Error", ""),
            "Evicted",
            Infrastructure,
        ),
        (None, false, refused("Evicted"), "Evicted", Infrastructure),
        (
            None,
            false,
            refused("Preempting"),
            "Preempted",
            Infrastructure,
        ),
        (None, false, refused("NodeLost"), "NodeLost", Infrastructure),
        (
            None,
            false,
            ended_state(137, "ContainerStatusUnknown", ""),
            "NodeLost",
            Infrastructure,
        ),
        (
            None,
            false,
            ended_state(255, "Unknown", ""),
            "NodeLost",
            Infrastructure,
        ),
        (
            None,
            false,
            refused("InitContainerFailed"),
            "InitContainerFailed",
            Infrastructure,
        ),
        (
            None,
            false,
            refused("OutOfcpu"),
            "NodeRefused",
            Infrastructure,
        ),
        (
            None,
            false,
            refused("UnexpectedAdmissionError"),
            "NodeRefused",
            Infrastructure,
        ),
    ];

    for (disruption, deleted, state, class, budget) in rows {
        let found = found(disruption, deleted, state.clone()).unwrap().class;
        assert_eq!(
            (found.name(), found.retry_budget()),
            (class, budget),
            "{disruption:?} {state:?}"
        );
    }
}

#[test]
fn work_that_is_done_or_goes_on_is_no_failure() {
    for state in [ended_state(0, "Completed", ""), WorkerState::Running] {
        assert_eq!(found(None, false, state.clone()), None, "{state:?}");
    }
}

#[test]
fn a_deleted_pod_that_nobody_ends_has_lost_its_node() {
    let lost = WorkerPod {
        ends_by: Some(time_at(0)),
        ..worker_pod("align", 1, WorkerState::Running)
    };

    let class = |seconds| {
        attempt_failure(&active_job("align", 1), &[&lost], time_at(seconds))
            .map(|found| found.class)
    };
    assert_eq!(class(10), None);
    assert_eq!(class(16), Some(FailureClass::NodeLost));
}
