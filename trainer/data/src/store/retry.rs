//! Repeats requests for as long as an outage may last. Decides how long; never what a request is.

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

use crate::error::{StoreError, StoreErrorKind, StoreVerb};
use crate::redact::redact_uri;

/// An outage that is ridden out, from the first request that fails: longer than the half hour in which stores and
/// networks are usually repaired.
pub(super) const DEFAULT_OUTAGE: Duration = Duration::from_secs(40 * 60);
/// For how long credentials that worked once may fail: a rotation of keys takes a minute or two to reach all parts of
/// a store.
const CREDENTIALS_GRACE: Duration = Duration::from_secs(5 * 60);
/// The client has repeated a request for half a minute before it fails here.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Between two lines of log about one outage.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long requests to one store are repeated, and which kinds of them ever worked.
#[derive(Debug)]
pub(super) struct RequestRetry {
    outage: Duration,
    /// A bit for each [`StoreVerb`].
    succeeded: AtomicU8,
}

impl RequestRetry {
    pub(super) fn new(outage: Duration) -> Self {
        Self {
            outage,
            succeeded: AtomicU8::new(0),
        }
    }

    /// Makes a request again and again, until it succeeds, fails for good, or an outage lasts too long.
    ///
    /// # Errors
    /// That of the last request.
    pub(super) async fn run<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        verb: StoreVerb,
        uri: &str,
        request: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut pauses = pauses();
        let mut outage: Option<OutageLog> = None;

        loop {
            let source = match request().await {
                Ok(answer) => {
                    self.record_success(verb);
                    if let Some(outage) = outage {
                        outage.log_end(verb, uri);
                    }

                    return Ok(answer);
                }
                Err(source) => source,
            };

            let error = self.to_error(verb, uri, source);
            if error.kind == StoreErrorKind::NotFound {
                // That an object is absent is an answer: of a store that works, to credentials that may ask it. In a
                // new prefix it is the first, and for long the only one.
                self.record_success(verb);
                return Err(error);
            }

            let log = outage.get_or_insert_with(OutageLog::new);
            let pause = pauses.next().unwrap_or(MAX_PAUSE);
            if log.elapsed() + pause > self.patience(&error) {
                return Err(error);
            }

            log.log_failure(&error, self.patience(&error));
            tokio::time::sleep(pause).await;
        }
    }

    /// The error of a request that is not repeated.
    pub(super) fn to_error(
        &self,
        verb: StoreVerb,
        uri: &str,
        source: object_store::Error,
    ) -> StoreError {
        let error = StoreError::new(verb, uri, source);
        match self.has_succeeded(verb) {
            true => error.after_success(),
            false => error,
        }
    }

    /// How long after the first failure a request is still repeated.
    fn patience(&self, error: &StoreError) -> Duration {
        // What never worked is more likely wrong than out of order, and its user is waiting for the answer: the
        // client itself has repeated the request for half a minute.
        if !self.has_succeeded(error.verb) {
            return Duration::ZERO;
        }

        match error.kind {
            StoreErrorKind::Unavailable => self.outage,
            StoreErrorKind::Unauthenticated
            | StoreErrorKind::PermissionDenied
            | StoreErrorKind::ClockSkew => CREDENTIALS_GRACE.min(self.outage),
            _ => Duration::ZERO,
        }
    }

    fn has_succeeded(&self, verb: StoreVerb) -> bool {
        // Relaxed suffices: the bits guard no other data.
        self.succeeded.load(Ordering::Relaxed) & verb_bit(verb) != 0
    }

    fn record_success(&self, verb: StoreVerb) {
        self.succeeded.fetch_or(verb_bit(verb), Ordering::Relaxed);
    }
}

/// Pauses that double, with a random part: ranks that lost a store at the same time do not come back at the same
/// time.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .without_max_times()
        .build()
}

fn verb_bit(verb: StoreVerb) -> u8 {
    1 << verb as u8
}

/// Says that a store fails, once a minute.
struct OutageLog {
    began: Instant,
    logged: Option<Instant>,
}

impl OutageLog {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            logged: None,
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn log_failure(&mut self, error: &StoreError, patience: Duration) {
        if self
            .logged
            .is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL)
        {
            self.logged = Some(Instant::now());
            let left = patience.saturating_sub(self.elapsed()).as_secs();
            tracing::warn!("{error}; trying again for up to {left} s");
        }
    }

    fn log_end(&self, verb: StoreVerb, uri: &str) {
        let uri = redact_uri(uri);
        tracing::info!("could {verb} {uri} after {} s", self.elapsed().as_secs());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// How one request ends.
    #[derive(Clone, Copy)]
    enum Answer {
        Done,
        Status(u16),
        AccessDenied,
        NotFound,
    }

    impl Answer {
        fn into_result(self) -> object_store::Result<()> {
            let text = match self {
                Self::Done => return Ok(()),
                Self::Status(status) => {
                    format!("Server returned non-2xx status code: {status} Words")
                }
                Self::AccessDenied => {
                    return Err(object_store::Error::PermissionDenied {
                        path: "x".to_owned(),
                        source: "<Code>AccessDenied</Code>".into(),
                    });
                }
                Self::NotFound => {
                    return Err(object_store::Error::NotFound {
                        path: "x".to_owned(),
                        source: "<Code>NoSuchKey</Code>".into(),
                    });
                }
            };

            Err(object_store::Error::Generic {
                store: "S3",
                source: text.into(),
            })
        }
    }

    struct Outcome {
        result: Result<(), StoreError>,
        requests: u32,
        waited: Duration,
    }

    /// Asks a store that gives `fault` for a while and is well again then; `before` it gave another answer. The clock of the test goes on by itself.
    fn request_during(outage: Duration, fault: Answer, before: Option<Answer>) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();

        runtime.block_on(async {
            let retry = RequestRetry::new(DEFAULT_OUTAGE);
            if let Some(answer) = before {
                let request = || async { answer.into_result() };
                // What it says is of no interest here.
                let _ = retry.run(StoreVerb::Read, "s3://b/x", request).await;
            }

            let began = Instant::now();
            let requests = Cell::new(0);
            let request = || {
                requests.set(requests.get() + 1);
                let answer = if began.elapsed() < outage {
                    fault
                } else {
                    Answer::Done
                };

                async move { answer.into_result() }
            };

            Outcome {
                result: retry.run(StoreVerb::Read, "s3://b/x", request).await,
                requests: requests.get(),
                waited: began.elapsed(),
            }
        })
    }

    #[test]
    fn an_outage_of_half_an_hour_is_ridden_out() {
        for minutes in [1, 30] {
            let outage = Duration::from_secs(60 * minutes);
            let found = request_during(outage, Answer::Status(503), Some(Answer::Done));
            found.result.unwrap();
            assert!(found.waited >= outage && found.waited < outage + 2 * MAX_PAUSE);
            assert!(found.requests < 60, "{} requests", found.requests);
        }
    }

    #[test]
    fn a_store_that_said_an_object_is_absent_has_worked() {
        let minute = Duration::from_secs(60);
        for fault in [Answer::Status(503), Answer::AccessDenied] {
            let found = request_during(minute, fault, Some(Answer::NotFound));
            found.result.unwrap();
        }

        let found = request_during(HOUR, Answer::NotFound, Some(Answer::Done));
        assert_eq!((found.requests, found.waited), (1, Duration::ZERO));
    }

    #[test]
    fn an_outage_without_end_ends_the_request() {
        let found = request_during(HOUR, Answer::Status(503), Some(Answer::Done));
        let error = found.result.unwrap_err();
        assert_eq!(error.exit().exit_code(), 75, "{error}");
        assert!(found.waited > DEFAULT_OUTAGE - 3 * MAX_PAUSE);
    }

    #[test]
    fn what_never_worked_fails_at_once() {
        for fault in [Answer::Status(503), Answer::AccessDenied] {
            let found = request_during(HOUR, fault, None);
            assert!(found.result.is_err());
            assert_eq!((found.requests, found.waited), (1, Duration::ZERO));
        }
    }

    #[test]
    fn rights_that_are_lost_for_a_minute_are_waited_for_and_those_lost_for_good_are_reported() {
        let minute = Duration::from_secs(60);
        request_during(minute, Answer::AccessDenied, Some(Answer::Done))
            .result
            .unwrap();

        let found = request_during(HOUR, Answer::AccessDenied, Some(Answer::Done));
        let error = found.result.unwrap_err();
        assert_eq!(error.exit().exit_code(), 78, "{error}");
        assert!(found.waited <= CREDENTIALS_GRACE);
    }

    #[test]
    fn a_lasting_answer_is_reported_at_once() {
        for status in [301, 400, 404, 405] {
            let found = request_during(HOUR, Answer::Status(status), Some(Answer::Done));
            let error = found.result.unwrap_err();
            assert_eq!(error.exit().exit_code(), 78, "{error}");
            assert_eq!(found.requests, 1, "{status}");
        }
    }
}
