//! Reads progress reports over HTTP, with a size limit: the trainer's image is the user's choice, and its
//! answer must not exhaust the operator's memory.

use std::net::SocketAddr;

use cnclip_crds::{names, report::ProgressReport};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    poll_failure::PollError,
    report_limits::{MAX_REPORT_BYTES, bound_report},
    text_limits::truncate_to_bytes,
};

/// Maximum length of a text that a pod or a library puts into an error.
const MAX_CAUSE_BYTES: usize = 256;

/// Source of progress reports.
pub trait ReadReport: Send + Sync + 'static {
    /// Requests the report of the trainer at an address.
    ///
    /// # Errors
    /// If there is no report, or one beyond the limits.
    fn read_report(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = Result<ProgressReport, PollError>> + Send;
}

/// HTTP client for progress reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpReader;

impl ReadReport for HttpReader {
    async fn read_report(&self, address: SocketAddr) -> Result<ProgressReport, PollError> {
        // One connection per request: polls are seconds apart, and a pool would hold a socket per run.
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| PollError::Connection(error.kind().to_string()))?;

        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken_connection)?;

        // A set, which aborts the task of the connection when this request ends or is dropped.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let response = sender
            .send_request(progress_request(address)?)
            .await
            .map_err(broken_connection)?;

        if response.status() != StatusCode::OK {
            return Err(PollError::Status(response.status().as_u16()));
        }

        let body = read_body(response.into_body()).await?;
        let report = serde_json::from_slice(&body)
            .map_err(|error| PollError::Invalid(describe("the answer is no report", &error)))?;

        bound_report(report).map_err(PollError::Invalid)
    }
}

fn progress_request(address: SocketAddr) -> Result<Request<Empty<Bytes>>, PollError> {
    Request::get(names::PATH_PROGRESS)
        .header("host", address.to_string())
        .body(Empty::new())
        .map_err(|error| PollError::Connection(error.to_string()))
}

async fn read_body(body: Incoming) -> Result<Bytes, PollError> {
    let collected = Limited::new(body, MAX_REPORT_BYTES).collect().await;
    let bytes = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            PollError::TooLarge(MAX_REPORT_BYTES)
        } else {
            PollError::Connection(describe("the answer broke off", &*error))
        }
    })?;

    Ok(bytes.to_bytes())
}

fn broken_connection(error: hyper::Error) -> PollError {
    PollError::Connection(describe("the connection broke", &error))
}

fn describe(what: &str, error: &dyn std::error::Error) -> String {
    let cause = error.to_string();
    format!("{what}: {}", truncate_to_bytes(&cause, MAX_CAUSE_BYTES))
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::CheckpointReport;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn answer(response: String) -> Result<ProgressReport, PollError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            // A reader that has seen enough closes the connection.
            let _ = stream.write_all(response.as_bytes()).await;

            String::from_utf8_lossy(&request[..length]).into_owned()
        });

        let report = HttpReader.read_report(address).await;
        assert!(
            server
                .await
                .unwrap()
                .starts_with("GET /progress HTTP/1.1\r\n")
        );

        report
    }

    fn http(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn a_report_is_read_as_it_was_said() {
        let report = ProgressReport {
            step: 7,
            steps: 9,
            ..ProgressReport::default()
        };

        let body = serde_json::to_string(&report).unwrap();
        assert_eq!(answer(http("200 OK", &body)).await.unwrap(), report);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_report_is_refused_with_the_cause() {
        let too_long = " ".repeat(MAX_REPORT_BYTES + 1);
        let report = serde_json::to_string(&ProgressReport::default()).unwrap();
        let variant = report.replace("Starting", &"x".repeat(1000));
        let unbounded = ProgressReport {
            checkpoints: vec![CheckpointReport {
                step: 1,
                uri: "x".repeat(100_000),
                digest: String::new(),
                written_at: 0,
            }],
            ..ProgressReport::default()
        };

        let unbounded = serde_json::to_string(&unbounded).unwrap();
        let rows = [
            (http("200 OK", "<html>"), "the answer is no report: "),
            (http("200 OK", &variant), "the answer is no report: "),
            (
                http("200 OK", &unbounded),
                "checkpoints.uri has 100000 bytes",
            ),
            (http("404 Not Found", &report), "HTTP status 404"),
            (
                http("200 OK", &too_long),
                "the answer has more than 262144 bytes",
            ),
            ("SSH-2.0-x\r\n".to_owned(), "the connection broke: "),
        ];

        for (response, expected) in rows {
            let error = answer(response).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(error.len() < 400, "{} bytes", error.len());
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_named_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(
            HttpReader.read_report(address).await.unwrap_err(),
            PollError::Connection("connection refused".to_owned())
        );
    }
}
