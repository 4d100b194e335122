use super::*;
use crate::cluster_fixtures::run_key;

const INTERVAL: Duration = Duration::from_secs(5);
const LIMITS: PollLimits = PollLimits {
    total: 4,
    per_namespace: 2,
    failing: 2,
    failing_per_namespace: 1,
};

fn run(name: &str) -> RunKey {
    run_key("training", name)
}

fn target(pod_uid: &str) -> PollTarget {
    PollTarget {
        pod_uid: pod_uid.to_owned(),
        address: SocketAddr::from(([10, 0, 0, 7], 8080)),
        attempt: RunIdentity::default(),
    }
}

fn report(pod_uid: &str, step: i64) -> ProgressReport {
    ProgressReport {
        pod_uid: pod_uid.to_owned(),
        step,
        ..ProgressReport::default()
    }
}

/// A schedule and its clock.
struct Bench {
    schedule: PollSchedule,
    start: Instant,
    seconds: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            schedule: PollSchedule::new(INTERVAL, LIMITS),
            start: Instant::now(),
            seconds: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn watch(&mut self, name: &str, pod_uid: &str) -> PodProgress {
        let now = self.now();
        self.schedule.watch_pod(run(name), target(pod_uid), now)
    }

    fn poll(&mut self) -> Option<Poll> {
        match self.schedule.next_poll(self.now()) {
            NextPoll::Send(poll) => Some(poll),
            NextPoll::Wait(_) => None,
        }
    }

    fn finish(&mut self, poll: Poll, result: Result<ProgressReport, PollError>) -> bool {
        let at = Timestamp::from_second(1_800_000_000 + self.seconds.cast_signed()).unwrap();
        self.schedule.finish(poll, result, self.now(), at).is_some()
    }
}

#[test]
fn an_answering_pod_is_asked_once_per_interval_and_only_news_are_reported() {
    let mut bench = Bench::new();
    bench.watch("muge", "p-1");
    for (step, news) in [(1, true), (1, false), (2, true)] {
        let poll = bench.poll().unwrap();
        assert!(bench.poll().is_none(), "one request at a time");
        assert_eq!(bench.finish(poll, Ok(report("p-1", step))), news, "{step}");
        bench.seconds += 4;
        assert!(bench.poll().is_none());
        bench.seconds += 1;
    }

    assert_eq!(bench.watch("muge", "p-1").report.unwrap().step, 2);
}

#[test]
fn a_pod_that_does_not_answer_is_asked_ever_less_often_and_its_last_report_stays() {
    let mut bench = Bench::new();
    bench.watch("muge", "p-1");
    let poll = bench.poll().unwrap();
    bench.finish(poll, Ok(report("p-1", 3)));

    let mut asked = Vec::new();
    let mut news = Vec::new();
    for _ in 0..600 {
        bench.seconds += 1;
        if let Some(poll) = bench.poll() {
            asked.push(bench.seconds);
            let error = PollError::Connection("connection refused".to_owned());
            if bench.finish(poll, Err(error)) {
                news.push(bench.seconds);
            }
        }
    }

    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 5, 10 and 20 seconds and then 30, each with up to as much again.
    for (wait, least) in waits
        .iter()
        .zip([5, 10, 20].into_iter().chain(std::iter::repeat(30)))
    {
        assert!((least..=2 * least + 1).contains(wait), "{waits:?}");
    }

    assert!(waits.iter().any(|wait| *wait > 31), "no jitter: {waits:?}");
    assert_eq!(news.len(), 1, "news once: {news:?}");
    assert!((65..=130).contains(&news[0]), "{news:?}");
    let progress = bench.watch("muge", "p-1");
    assert_eq!(progress.report.unwrap().step, 3);
    assert_eq!(progress.failure.unwrap().since.as_second(), 1_800_000_005);
}

#[test]
fn another_error_and_an_answer_after_a_lasting_failure_are_news() {
    let mut bench = Bench::new();
    bench.watch("muge", "p-1");
    let poll = bench.poll().unwrap();
    bench.finish(poll, Ok(report("p-1", 3)));
    let rows = [
        (Err(PollError::Status(503)), false),
        (Err(PollError::Status(503)), true),
        (Err(PollError::Status(503)), false),
        (Err(PollError::Status(404)), true),
        (Ok(report("p-1", 3)), true),
        (Ok(report("p-1", 3)), false),
        (Err(PollError::Status(404)), false),
    ];

    for (row, (result, news)) in rows.into_iter().enumerate() {
        bench.seconds += 70;
        let poll = bench.poll().unwrap();
        assert_eq!(bench.finish(poll, result), news, "row {row}");
    }
}

#[test]
fn an_answer_of_another_pod_is_refused_and_one_to_an_earlier_request_is_dropped() {
    let mut bench = Bench::new();
    bench.watch("muge", "p-1");
    let poll = bench.poll().unwrap();
    bench.finish(poll, Ok(report("p-9", 3)));
    let progress = bench.watch("muge", "p-1");
    assert_eq!(progress.failure.unwrap().error, PollError::OtherPod);
    assert!(progress.report.is_none());

    // The next attempt's pod is registered while a request is in progress.
    bench.seconds += 60;
    let poll = bench.poll().unwrap();
    bench.watch("muge", "p-2");
    let second = bench
        .poll()
        .expect("the new pod does not wait for the old one");
    assert!(!bench.finish(poll, Ok(report("p-1", 4))));
    assert!(bench.watch("muge", "p-2").failure.is_none());
    assert!(bench.poll().is_none(), "one request at a time");
    assert!(bench.finish(second, Ok(report("p-2", 5))));
    assert_eq!(bench.watch("muge", "p-2").report.unwrap().step, 5);
}

#[test]
fn nothing_is_kept_of_a_run_that_is_forgotten_deleted_or_no_longer_confirmed() {
    let mut bench = Bench::new();
    for name in ["forgotten", "deleted", "unconfirmed"] {
        bench.watch(name, "p-1");
    }

    let in_flight = bench.poll().unwrap();
    bench.schedule.forget_run(&run("forgotten"));
    bench.schedule.retain_runs(|run| run.name != "deleted");
    assert_eq!(bench.schedule.pods(), 1);
    assert!(!bench.finish(in_flight, Ok(report("p-1", 1))));

    bench.seconds += 1800;
    assert!(bench.poll().is_none());
    assert_eq!(bench.schedule.pods(), 0);
}
