//! A simulation on a paused clock: pods that accept no connection next to pods that answer.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use cnclip_crds::trainer_config::RunIdentity;
use tokio::time::sleep;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time between two reports of a pod that answers: the interval, its answer, and a wait for a slot.
const LONGEST_GAP: Duration = Duration::from_millis(6500);
const UNREACHABLE_PODS: u8 = 200;
const ANSWERING_PODS: u8 = 50;

/// Pods of two blocks of addresses; the second byte is the block, the third the namespace.
#[derive(Clone)]
struct SimulatedPods {
    start: Instant,
    in_flight: Arc<Mutex<InFlight>>,
}

#[derive(Default)]
struct InFlight {
    by_namespace: HashMap<u8, usize>,
    most_in_total: usize,
    most_in_a_namespace: usize,
}

/// A request in progress, which may be dropped at its time-out.
struct Request {
    namespace: u8,
    in_flight: Arc<Mutex<InFlight>>,
}

impl Request {
    fn new(namespace: u8, pods: &SimulatedPods) -> Self {
        let in_flight = pods.in_flight.clone();
        let mut counts = in_flight.lock().unwrap();
        *counts.by_namespace.entry(namespace).or_default() += 1;
        counts.most_in_total = counts.most_in_total.max(counts.by_namespace.values().sum());
        let in_namespace = counts.by_namespace[&namespace];
        counts.most_in_a_namespace = counts.most_in_a_namespace.max(in_namespace);

        drop(counts);
        Self {
            namespace,
            in_flight,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut counts = self.in_flight.lock().unwrap();
        *counts.by_namespace.get_mut(&self.namespace).unwrap() -= 1;
    }
}

impl ReadReport for SimulatedPods {
    async fn read_report(&self, address: SocketAddr) -> Result<ProgressReport, PollError> {
        let IpAddr::V4(ip) = address.ip() else {
            panic!("{address} is not one of the simulation");
        };

        let [_, block, namespace, _] = ip.octets();
        let _request = Request::new(namespace, self);
        if block == UNREACHABLE {
            std::future::pending::<()>().await;
        }

        sleep(Duration::from_millis(20)).await;
        Ok(ProgressReport {
            pod_uid: ip.to_string(),
            step: self.start.elapsed().as_millis() as i64,
            ..ProgressReport::default()
        })
    }
}

const UNREACHABLE: u8 = 0;
const ANSWERING: u8 = 1;

/// Adds pods of a block to a namespace.
fn add_pods(poller: &ProgressPoller, block: u8, namespace: u8, count: u8) {
    for pod in 0..count {
        let ip = Ipv4Addr::new(10, block, namespace, pod);
        let run = RunKey {
            kind: "training",
            namespace: namespace.to_string(),
            name: format!("{block}-{pod}"),
        };

        let target = PollTarget {
            pod_uid: ip.to_string(),
            address: SocketAddr::from((ip, 8080)),
            attempt: RunIdentity::default(),
        };

        poller.watch_pod(run, target);
    }
}

/// What a simulation of two minutes has shown.
struct Outcome {
    /// Longest time without news of a pod that answers, from the given time on.
    longest_gap: Duration,
    most_in_total: usize,
    most_in_a_namespace: usize,
}

/// Polls for two minutes; gaps count from `settled` on.
async fn simulate(settled: Duration, pods: &[(u8, u8, u8)]) -> Outcome {
    let start = Instant::now();
    let end = start + Duration::from_secs(120);
    let triggers = Triggers::default();
    let poller = ProgressPoller::new(INTERVAL, triggers.clone(), Metrics::new().unwrap());
    for (block, namespace, count) in pods {
        add_pods(&poller, *block, *namespace, *count);
    }

    let simulated = SimulatedPods {
        start,
        in_flight: Arc::default(),
    };

    let in_flight = simulated.in_flight.clone();
    let stop = CancellationToken::new();
    let polling = tokio::spawn(poller.poll_pods(simulated, stop.clone()));
    let mut news = Box::pin(triggers.subscribe("training"));
    let mut last: HashMap<RunKey, Instant> = HashMap::new();
    let mut longest_gap = Duration::ZERO;

    while let Ok(run) = tokio::time::timeout_at(end, news.next()).await {
        let run = run.unwrap();
        let before = last.insert(run, Instant::now()).unwrap_or(start);
        longest_gap = longest_gap.max(before.max(start + settled).elapsed());
    }

    let answering: usize = pods
        .iter()
        .filter(|(block, ..)| *block == ANSWERING)
        .map(|(.., count)| usize::from(*count))
        .sum();

    assert_eq!(
        last.len(),
        answering,
        "every pod that answers has given news"
    );
    for time in last.values() {
        longest_gap = longest_gap.max(time.elapsed());
    }

    stop.cancel();
    polling.await.unwrap();
    let counts = in_flight.lock().unwrap();
    Outcome {
        longest_gap,
        most_in_total: counts.most_in_total,
        most_in_a_namespace: counts.most_in_a_namespace,
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_pods_of_one_namespace_do_not_delay_the_others() {
    let pods = [
        (UNREACHABLE, 1, UNREACHABLE_PODS),
        (ANSWERING, 2, ANSWERING_PODS),
    ];

    let outcome = simulate(Duration::ZERO, &pods).await;
    assert!(
        outcome.longest_gap <= LONGEST_GAP,
        "{:?}",
        outcome.longest_gap
    );

    assert!(
        outcome.most_in_a_namespace <= 8,
        "{} requests",
        outcome.most_in_a_namespace
    );
}

#[tokio::test(start_paused = true)]
async fn unreachable_pods_of_many_namespaces_leave_slots_to_the_others() {
    let hostile = (10..40).map(|namespace| (UNREACHABLE, namespace, UNREACHABLE_PODS));
    let pods: Vec<_> = hostile.chain([(ANSWERING, 2, ANSWERING_PODS)]).collect();
    let outcome = simulate(Duration::ZERO, &pods).await;
    // The first 64 requests time out before any other can be sent.
    assert!(
        outcome.longest_gap <= LONGEST_GAP + REQUEST_TIMEOUT,
        "{:?}",
        outcome.longest_gap
    );

    assert!(
        outcome.most_in_total <= 64,
        "{} requests",
        outcome.most_in_total
    );
}

#[tokio::test(start_paused = true)]
async fn unreachable_pods_do_not_delay_those_of_their_own_namespace_for_long() {
    let pods = [
        (UNREACHABLE, 1, UNREACHABLE_PODS),
        (ANSWERING, 1, ANSWERING_PODS),
    ];

    // The first requests to the unreachable pods take 200 times 2 s in 8 slots.
    let outcome = simulate(Duration::from_secs(60), &pods).await;
    assert!(
        outcome.longest_gap <= LONGEST_GAP,
        "{:?}",
        outcome.longest_gap
    );
}
