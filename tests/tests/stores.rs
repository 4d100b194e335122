//! How object stores are read and written through faults, with an S3 server behind a proxy that breaks connections.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cnclip_data::error::Result;
use cnclip_data::store::Store;
use cnclip_tests::fault_proxy::{Fault, FaultProxy};
use cnclip_tests::testbed::Testbed;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};

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

/// Runs a request of the client itself.
fn run<T>(request: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(request)
}

/// A client that does what a killed process did: it begins an upload, sends a part, and ends.
struct KilledUpload {
    client: AmazonS3,
    path: Path,
    id: MultipartId,
}

impl KilledUpload {
    fn begin(fixture: &Fixture, name: &str) -> Self {
        let s3 = Testbed::from_env().unwrap().s3;
        let client = AmazonS3Builder::new()
            .with_endpoint(&s3.endpoint)
            .with_allow_http(true)
            .with_bucket_name(&s3.bucket)
            .with_region(&s3.region)
            .with_access_key_id(&s3.access_key_id)
            .with_secret_access_key(&s3.secret_access_key)
            .build()
            .unwrap();

        let uri = fixture.store.object_uri(name);
        let key = uri.trim_start_matches(&format!("s3://{}/", s3.bucket));
        let path = Path::parse(key).unwrap();
        let id = run(async { client.create_multipart(&path).await }).unwrap();
        let killed = Self { client, path, id };
        assert!(killed.put_part(0));

        let record = format!("{name}.upload-id");
        let id = killed.id.clone();
        fixture.store.put(&record, id.into()).unwrap();
        killed
    }

    /// Whether the upload takes a part.
    fn put_part(&self, index: usize) -> bool {
        let part = PutPayload::from(vec![0; 6 << 20]);
        let put = self.client.put_part(&self.path, &self.id, index, part);
        run(put).is_ok()
    }

    fn is_stored(&self) -> bool {
        self.put_part(1)
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

#[test]
fn what_a_killed_upload_left_behind_is_removed() {
    let fixture = Fixture::new("killed", 20).write_first();
    let store = fixture.store.join_prefix("run");
    let fixture = Fixture { store, ..fixture };

    let overwritten = KilledUpload::begin(&fixture, "object");
    let removed = KilledUpload::begin(&fixture, "folder/object");
    assert!(overwritten.is_stored() && removed.is_stored());

    let fixture = fixture.write_first();
    fixture.store.delete_folder("folder").unwrap();
    assert!(!overwritten.is_stored() && !removed.is_stored());

    let entries = fixture.store.list_objects().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["object"]);
}
