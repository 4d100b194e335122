//! What follows from a failed attempt.

use super::*;

#[test]
fn a_killed_worker_is_put_on_record_once_and_restarted_after_a_while() {
    let run = manifest_fixtures::sample_training();
    let killed = |seconds| at_work(seconds, "align", 1, ended_state(137, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &killed(10));
    assert_eq!(
        (created(&plan), plan.status.restarts.application),
        (None, 1)
    );

    assert_eq!(reasons(&plan), ["AttemptStarted", "Killed"]);
    // The write was lost: the same is found again, and counted once.
    assert_eq!(
        decide(&run, &RecordedStatus::default(), &killed(10)).status,
        plan.status
    );

    let soon = decide(&run, &plan.status, &killed(11));
    assert_eq!(
        (created(&soon), why(&soon.status, "Running").as_str()),
        (None, "False RestartPending")
    );

    let later = decide(&run, &plan.status, &killed(12));
    assert_eq!(created(&later), Some("muge-align-2"));
    assert_eq!(later.remove, [""; 0], "the last attempt stays for its logs");
    assert_eq!(later.status.restarts.total, 1);
}

#[test]
fn after_running_out_of_memory_an_automatic_micro_batch_is_halved() {
    let halves = |plan: &ReconcilePlan| {
        let objects = plan.create.as_ref().unwrap();
        let run_json = objects.config_map.data.as_ref().unwrap()["run.json"].as_str();
        serde_json::from_str::<serde_json::Value>(run_json).unwrap()["halveMicroBatch"].clone()
    };
    for (micro_batch, halved) in [(json!("Auto"), true), (json!(8), false)] {
        let run = manifest_fixtures::sample_training_with("/stages/0/microBatchSize", micro_batch);
        let first = decide(&run, &RecordedStatus::default(), &nothing(0));
        assert_eq!(halves(&first), false);
        let killed =
            |attempt, code, reason| at_work(10, "align", attempt, ended_state(code, reason, ""));
        let recorded = decide(
            &run,
            &RecordedStatus::default(),
            &killed(1, 137, "OOMKilled"),
        )
        .status;
        let second = decide(
            &run,
            &recorded,
            &ObservedState {
                jobs: vec![active_job("align", 1)],
                ..nothing(12)
            },
        );

        assert_eq!(halves(&second), halved);
        // Another end later leaves it at that, and so does a second lack of memory.
        for (code, reason) in [(75, "Error"), (137, "OOMKilled")] {
            let recorded = decide(&run, &second.status, &killed(2, code, reason)).status;
            let third = decide(
                &run,
                &recorded,
                &ObservedState {
                    jobs: vec![active_job("align", 2)],
                    ..nothing(60)
                },
            );

            assert_eq!(halves(&third), halved, "{code}");
        }

        assert_eq!(
            why(&recorded, "Degraded"),
            if halved {
                "True MicroBatchHalved"
            } else {
                "False AsExpected"
            }
        );
    }
}

#[test]
fn attempts_before_the_last_are_removed() {
    let run = manifest_fixtures::sample_training();
    let mut recorded = after(&run, &[at_work(0, "align", 2, ended_state(1, "Error", ""))]);
    recorded.restarts.total = 1;
    let jobs = vec![
        active_job("align", 1),
        job_in("align", 2, JobState::Failed(String::new())),
    ];

    let plan = decide(
        &run,
        &recorded,
        &ObservedState {
            jobs,
            ..nothing(60)
        },
    );

    assert_eq!(created(&plan), Some("muge-align-3"));
    assert_eq!(plan.remove, ["muge-align-1"]);
}

#[test]
fn a_failure_that_no_restart_cures_ends_the_run_without_burning_its_retries() {
    for (code, class) in [(64, "Usage"), (65, "Data"), (78, "Config")] {
        let observed = at_work(5, "align", 1, ended_state(code, "Error", "no such prefix"));
        let plan = decide(
            &manifest_fixtures::sample_training(),
            &RecordedStatus::default(),
            &observed,
        );
        assert_eq!(why(&plan.status, "Failed"), format!("True {class}"));
        assert_eq!(plan.status.restarts.total, 0, "{class}");
        assert_eq!(plan.status.stages[0].state, StageState::Failed);
        let message = &plan.status.find_condition("Failed").unwrap().message;

        assert!(
            message.starts_with("stage align: no such prefix. Not retried"),
            "{message}"
        );
    }
}

#[test]
fn a_run_out_of_retries_is_given_up() {
    let run = manifest_fixtures::sample_training_with(
        "/retries",
        json!({"application": 0, "infrastructure": 1}),
    );
    let killed = at_work(5, "align", 1, ended_state(137, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &killed);
    assert_eq!(why(&plan.status, "Failed"), "True Killed");
    let terminated = at_work(5, "align", 1, ended_state(143, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &terminated);

    assert_eq!(why(&plan.status, "Failed"), "False NotFailed");
}
