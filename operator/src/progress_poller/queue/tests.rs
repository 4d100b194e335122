use std::time::Duration;

use super::*;
use crate::cluster_fixtures::run_key;

const LIMITS: PollLimits = PollLimits {
    total: 6,
    per_namespace: 3,
    failing: 2,
    failing_per_namespace: 1,
};

fn run(namespace: &str, name: &str) -> RunKey {
    RunKey {
        namespace: namespace.to_owned(),
        ..run_key("training", name)
    }
}

/// A queue of these pods: namespace, name, seconds until it is due, lane.
fn queue(start: Instant, pods: &[(&str, &str, u64, Lane)]) -> PollQueue {
    let mut queue = PollQueue::new(LIMITS);
    for (namespace, name, seconds, lane) in pods {
        let due = start + Duration::from_secs(*seconds);
        queue.insert(run(namespace, name), due, *lane);
    }

    queue
}

/// Starts all requests that may be started.
fn start_all(queue: &mut PollQueue, now: Instant) -> Vec<Slot> {
    std::iter::from_fn(|| match queue.pop_due(now) {
        Next::Start(slot) => Some(slot),
        Next::Wait(_) => None,
    })
    .collect()
}

fn names(slots: &[Slot]) -> Vec<&str> {
    slots.iter().map(|slot| slot.run.name.as_str()).collect()
}

#[test]
fn the_pod_of_a_namespace_that_is_due_longest_comes_first() {
    let start = Instant::now();
    let pods = [
        ("a", "a-late", 3, Lane::Answering),
        ("a", "a-early", 1, Lane::Answering),
        ("b", "b-late", 4, Lane::Answering),
        ("b", "b-early", 2, Lane::Answering),
        ("c", "c-future", 9, Lane::Answering),
    ];

    let mut queue = queue(start, &pods);
    let slots = start_all(&mut queue, start + Duration::from_secs(5));
    assert_eq!(names(&slots), ["a-early", "b-early", "a-late", "b-late"]);
}

#[test]
fn namespaces_take_turns_also_when_every_request_ends_before_the_next_one() {
    let start = Instant::now();
    let pods: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .flat_map(|namespace| ["1", "2"].map(|name| (namespace, name, 0, Lane::Answering)))
        .collect();

    let mut queue = queue(start, &pods);
    let mut order = String::new();
    while let Next::Start(slot) = queue.pop_due(start) {
        order += &slot.run.namespace;
        queue.release(slot);
    }

    assert_eq!(order, "abcabc");
}

#[test]
fn a_namespace_whose_requests_end_soon_does_not_wait_for_one_whose_requests_last() {
    let start = Instant::now();
    let pods: Vec<_> = ["slow", "swift"]
        .into_iter()
        .flat_map(|namespace| {
            ["1", "2", "3", "4"].map(|name| (namespace, name, 0, Lane::Answering))
        })
        .collect();

    let mut queue = queue(start, &pods);
    let mut order = Vec::new();
    let mut lasting = Vec::new();
    for _ in 0..6 {
        let Next::Start(slot) = queue.pop_due(start) else {
            panic!("a pod is due");
        };

        order.push(slot.run.namespace.clone());
        if slot.run.namespace == "slow" {
            lasting.push(slot);
        } else {
            queue.release(slot);
        }
    }

    assert_eq!(order, ["slow", "swift", "swift", "swift", "swift", "slow"]);
}

#[test]
fn requests_are_bounded_in_total_and_per_namespace_until_one_ends() {
    let start = Instant::now();
    let pods: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .flat_map(|namespace| {
            ["1", "2", "3", "4", "5"].map(|name| (namespace, name, 0, Lane::Answering))
        })
        .collect();

    let mut one = queue(start, &pods[..5]);
    let mut slots = start_all(&mut one, start);
    assert_eq!(names(&slots), ["1", "2", "3"]);
    one.release(slots.remove(0));
    assert_eq!(names(&start_all(&mut one, start)), ["4"]);

    let mut all = queue(start, &pods);
    let slots = start_all(&mut all, start);
    assert_eq!(names(&slots), ["1", "1", "1", "2", "2", "2"]);
}

#[test]
fn pods_that_do_not_answer_leave_slots_to_the_others() {
    let start = Instant::now();
    let failing = |namespace, name| (namespace, name, 0, Lane::Failing);
    let pods = [
        failing("a", "a-1"),
        failing("a", "a-2"),
        failing("b", "b-1"),
        failing("c", "c-1"),
        ("a", "a-well", 1, Lane::Answering),
    ];

    let mut queue = queue(start, &pods);
    let now = start + Duration::from_secs(1);
    // One of a namespace, two in total.
    assert_eq!(names(&start_all(&mut queue, now)), ["a-1", "b-1", "a-well"]);
}

#[test]
fn the_wait_ends_with_the_next_pod_that_a_slot_is_free_for() {
    let start = Instant::now();
    let pods = [
        ("a", "a-1", 0, Lane::Failing),
        ("a", "a-2", 0, Lane::Failing),
        ("b", "b-1", 7, Lane::Answering),
    ];

    let mut queue = queue(start, &pods);
    let slots = start_all(&mut queue, start);
    assert_eq!(names(&slots), ["a-1"]);
    let Next::Wait(until) = queue.pop_due(start) else {
        panic!("no slot is free");
    };

    assert_eq!(until, Some(start + Duration::from_secs(7)));
}

#[test]
fn nothing_is_left_of_pods_that_were_removed() {
    let start = Instant::now();
    let pods = [
        ("a", "a-1", 0, Lane::Answering),
        ("b", "b-1", 0, Lane::Failing),
    ];

    let mut queue = queue(start, &pods);
    let Next::Start(slot) = queue.pop_due(start) else {
        panic!("a pod is due");
    };

    queue.remove(&run("b", "b-1"), start, Lane::Failing);
    queue.release(slot);
    assert!(queue.namespaces.is_empty());
    assert_eq!(queue.in_flight.total, 0);
    assert_eq!(queue.in_flight.failing, 0);
}
