//! A series that is slower than its training.

use super::*;

#[test]
fn of_too_many_checkpoints_that_wait_the_oldest_are_skipped_and_dropped() {
    let mut run = series();
    run.spec.suspend = true;
    let mut skipped = Vec::new();
    for round in 0..120 {
        // A training lists its eight newest checkpoints.
        let steps = (round * 8..round * 8 + 8).rev();
        let newest: Vec<_> = steps.map(|step| checkpoint("align", step)).collect();
        let plan = reconcile(
            &mut run,
            &from_training(nothing(round), training(&newest, None)),
        );
        let events = plan.events.iter();
        skipped.extend(
            events
                .filter(|event| event.reason == "CheckpointSkipped")
                .cloned(),
        );
    }

    let status = run.status.as_ref().unwrap();
    let waiting = status
        .history
        .iter()
        .filter(|entry| entry.state != StageState::Skipped);

    let steps: Vec<_> = waiting.map(|entry| entry.step).collect();
    // The current one stays, although it is the oldest.
    let expected: Vec<_> = (560..960).rev().chain([0]).collect();
    assert_eq!(steps, expected);
    assert_eq!(status.history.len(), 401, "those skipped are dropped");
    assert_eq!(skipped.len(), 559);
    assert!(skipped.iter().all(|event| event.warning));
}
