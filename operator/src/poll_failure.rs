//! Why the progress of a pod could not be read. Pure.

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::jiff::Timestamp;
use thiserror::Error;

/// Seconds of failed requests after which they are reported: longer than a trainer takes until its server
/// listens.
const LASTING_SECONDS: i64 = 60;

/// Why one request of a progress report failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PollError {
    /// No complete answer in time.
    #[error("no complete answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// No connection, or one that broke.
    #[error("{0}")]
    Connection(String),
    /// Another status than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// An answer beyond the limit.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// An answer that is no report, or one with more than a report may have.
    #[error("{0}")]
    Invalid(String),
    /// A report of another pod or attempt.
    #[error("the report is that of another pod or attempt")]
    OtherPod,
}

impl PollError {
    /// Reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) | Self::Connection(_) | Self::Status(_) => "Unreachable",
            Self::TooLarge(_) | Self::Invalid(_) | Self::OtherPod => "ReportRefused",
        }
    }

    /// Value of the `outcome` label.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "late",
            _ => "refused",
        }
    }
}

/// Failed requests of the progress of a pod, since its last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollFailure {
    /// Address of the pod and port of the trainer.
    pub address: SocketAddr,
    /// Time of the first failed request.
    pub since: Timestamp,
    /// Why the last request failed.
    pub error: PollError,
}

impl PollFailure {
    /// Whether it has lasted longer than the start of a trainer takes.
    pub fn is_lasting(&self, now: Timestamp) -> bool {
        now.as_second() - self.since.as_second() >= LASTING_SECONDS
    }
}
