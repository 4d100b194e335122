//! Errors of reconciliations: failed requests to the API server.

use std::time::Duration;

use thiserror::Error;

/// Error of a reconciliation: one variant per operation.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// An object could not be read.
    #[error("reading {what} of {run}")]
    Observe {
        /// Kind, namespace and name of the run.
        run: String,
        /// What was read.
        what: &'static str,
        /// Error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// The operating system gave no random numbers.
    #[error("drawing a secret for the workers")]
    DrawSecret {
        /// Error of the operating system.
        #[source]
        source: getrandom::Error,
    },
    /// An object could not be applied.
    #[error("applying {kind} {name}")]
    Apply {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// Error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be deleted.
    #[error("deleting {kind} {name}")]
    Delete {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// Error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("writing the status of {run}")]
    WriteStatus {
        /// Kind, namespace and name of the run.
        run: String,
        /// Error of the client.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ReconcileError {
    /// Value of the `outcome` label: a stable name, not the message, whose object names would be unbounded.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Observe { .. } => "observe",
            Self::DrawSecret { .. } => "draw_secret",
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::WriteStatus { .. } => "write_status",
        }
    }

    /// Requeue interval after this error. The client itself has already retried several times.
    pub fn retry_after(&self) -> Duration {
        Duration::from_secs(if self.is_refusal() { 30 } else { 3 })
    }

    /// Whether the API server rejected the request: quota, admission policy, invalid value. Retrying does not
    /// help until somebody changes something.
    pub fn is_refusal(&self) -> bool {
        let (Self::Observe { source, .. }
        | Self::Apply { source, .. }
        | Self::Delete { source, .. }
        | Self::WriteStatus { source, .. }) = self
        else {
            return false;
        };

        // Not 409: a conflict means that the run has changed since it was read, and the next
        // reconciliation reads it again. 403 is also the answer to an exceeded ResourceQuota.
        matches!(&**source, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
    }

    /// The error without a secret that the API server may have repeated in its answer.
    #[must_use]
    pub fn redact(mut self, secret: &str) -> Self {
        if let Self::Apply { source, .. } = &mut self
            && let kube::Error::Api(status) = &mut **source
            && !secret.is_empty()
        {
            let causes = status
                .details
                .iter_mut()
                .flat_map(|details| &mut details.causes);
            let messages = causes.map(|cause| &mut cause.message);
            for message in messages.chain([&mut status.message]) {
                *message = message.replace(secret, "[redacted]");
            }
        }

        self
    }

    /// The error and its sources in one line.
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
