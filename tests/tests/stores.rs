//! How object stores are read and written through faults, with an S3 server behind a proxy that breaks connections.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cnclip_data::error::Result;
use cnclip_data::store::Store;
use cnclip_tests::fault_proxy::{Fault, FaultProxy};
use cnclip_tests::testbed::Testbed;

const UNAVAILABLE: Fault = answer("503 Service Unavailable", "SlowDown");
const THROTTLED: Fault = answer("429 Too Many Requests", "TooManyRequests");
const DENIED: Fault = answer("403 Forbidden", "AccessDenied");
const EXPIRED: Fault = answer("400 Bad Request", "ExpiredToken");
const SKEWED: Fault = answer("403 Forbidden", "RequestTimeTooSkewed");
const MISSING_BUCKET: Fault = answer("404 Not Found", "NoSuchBucket");

const fn answer(status: &'static str, code: &'static str) -> Fault {
    Fault::Answer { status, code }
}

/// Longer than the client alone repeats a request.
const OUTAGE: Duration = Duration::from_secs(45);

/// A store behind a proxy.
struct Fixture {
    proxy: Arc<FaultProxy>,
    store: Store,
    /// Of three parts.
    content: Bytes,
}

impl Fixture {
    /// `outage` is for how many seconds the store is waited for.
    fn new(name: &str, outage: u64) -> Self {
        let s3 = Testbed::from_env().unwrap().s3;
        let upstream = s3.endpoint.trim_start_matches("http://").to_owned();
        let proxy = Arc::new(FaultProxy::start(&upstream).unwrap());
        let variables = [
            ("AWS_ENDPOINT_URL", proxy.url()),
            ("AWS_REGION", s3.region),
            ("AWS_ACCESS_KEY_ID", s3.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", s3.secret_access_key),
            ("CNCLIP_STORE_OUTAGE_SECONDS", outage.to_string()),
        ];

        let uri = format!("s3://{}/store-faults/{name}", s3.bucket);
        let variables = variables.map(|(key, value)| (key.to_owned(), value));
        let content = (0..40_000_000u32)
            .map(|place| (place / 977) as u8)
            .collect();

        Self {
            proxy,
            store: Store::open_with(&uri, variables).unwrap(),
            content,
        }
    }

    /// What worked before is ridden out.
    fn write_first(self) -> Self {
        self.store.put("object", self.content.clone()).unwrap();
        assert!(self.store.get("object").unwrap() == self.content);
        self
    }
}

/// Runs every case on a thread of its own: all of them wait, and none computes.
fn in_parallel<T: Send + Sync>(cases: &[T], run: impl Fn(usize, &T) + Sync) {
    std::thread::scope(|scope| {
        for (number, case) in cases.iter().enumerate() {
            let run = &run;
            scope.spawn(move || run(number, case));
        }
    });
}

#[test]
fn reads_and_writes_go_on_after_every_fault_that_passes() {
    let faults = [
        Fault::Swallow,
        Fault::Reset,
        Fault::Cut(100_000),
        Fault::Slow(1000),
        UNAVAILABLE,
        THROTTLED,
        DENIED,
        EXPIRED,
    ];

    in_parallel(&faults, |number, fault| {
        let fixture = Fixture::new(&format!("passing-{number}"), 300).write_first();
        let began = Instant::now();
        fixture.proxy.set_fault_for(fault.clone(), OUTAGE);

        std::thread::scope(|scope| {
            let read = scope.spawn(|| fixture.store.get("object"));
            let small = scope.spawn(|| fixture.store.put("small", "x".into()));
            let large = scope.spawn(|| fixture.store.put("large", fixture.content.clone()));

            assert!(
                read.join().unwrap().unwrap() == fixture.content,
                "{fault:?}"
            );
            small.join().unwrap().unwrap();
            large.join().unwrap().unwrap();
        });

        assert!(
            began.elapsed() < 4 * OUTAGE,
            "{fault:?}: {:?}",
            began.elapsed()
        );
        assert!(
            fixture.store.get("large").unwrap() == fixture.content,
            "{fault:?}"
        );
    });
}

#[test]
fn every_fault_that_lasts_has_an_end_with_its_exit_code() {
    let cases = [
        (Fault::Swallow, 75),
        (Fault::Reset, 75),
        (Fault::Slow(1000), 75),
        (UNAVAILABLE, 75),
        (THROTTLED, 75),
        (EXPIRED, 75),
        (DENIED, 78),
        (SKEWED, 78),
        (MISSING_BUCKET, 78),
    ];

    in_parallel(&cases, |number, (fault, exit_code)| {
        let fixture = Fixture::new(&format!("lasting-{number}"), 20).write_first();
        fixture.proxy.set_fault(fault.clone());
        let error = fixture.store.get("object").unwrap_err();
        assert_eq!(error.exit().exit_code(), *exit_code, "{fault:?}: {error}");
    });
}

#[test]
fn what_never_worked_is_reported_within_a_minute() {
    let cases = [
        (Fault::Swallow, 75, 60),
        (Fault::Reset, 75, 60),
        (UNAVAILABLE, 75, 60),
        (EXPIRED, 78, 5),
        (DENIED, 78, 5),
        (SKEWED, 78, 5),
        (MISSING_BUCKET, 78, 5),
    ];

    in_parallel(&cases, |number, (fault, exit_code, seconds)| {
        let fixture = Fixture::new(&format!("never-{number}"), 3600);
        fixture.proxy.set_fault(fault.clone());
        let began = Instant::now();
        let answer: Result<Bytes> = fixture.store.get("object");
        let error = answer.unwrap_err();

        assert_eq!(error.exit().exit_code(), *exit_code, "{fault:?}: {error}");
        assert!(
            began.elapsed() < Duration::from_secs(*seconds),
            "{fault:?}: {error}"
        );
    });
}
