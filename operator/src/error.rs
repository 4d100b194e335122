//! What can fail: talking to the API server, and nothing else.

use std::time::Duration;

use thiserror::Error;

/// Why a reconcile could not be finished. One variant for each thing that was tried.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// Something could not be read.
    #[error("reading {what} of {run}")]
    Observe {
        /// The run.
        run: String,
        /// What was read.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be created.
    #[error("applying {kind} {name}")]
    Apply {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be deleted.
    #[error("deleting {kind} {name}")]
    Delete {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("writing the status of {run}")]
    WriteStatus {
        /// The run.
        run: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ReconcileError {
    /// A short, stable name: the `error` label of the metrics. Never the message, which names objects.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Observe { .. } => "observe",
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::WriteStatus { .. } => "write_status",
        }
    }

    /// How long to wait before the next try. The client itself has tried a few times in between.
    pub fn retry_after(&self) -> Duration {
        Duration::from_secs(if self.is_refusal() { 30 } else { 3 })
    }

    /// Whether the API server understood and said no: a quota, a policy, an invalid value.
    pub fn is_refusal(&self) -> bool {
        let (Self::Observe { source, .. }
        | Self::Apply { source, .. }
        | Self::Delete { source, .. }
        | Self::WriteStatus { source, .. }) = self;

        matches!(&**source, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
    }

    /// The whole chain in one line.
    pub fn error_chain(&self) -> String {
        let mut words = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            words += &format!(": {error}");
            source = error.source();
        }

        words
    }
}
