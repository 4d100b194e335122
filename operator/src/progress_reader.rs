//! Reads progress reports over HTTP, with a timeout and a size limit: a trainer that is slow, silent or sends
//! too much counts as unreachable. Training does not depend on it.

use std::time::Duration;

use cnclip_crds::{names, report::ProgressReport};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::metrics::Metrics;

/// Request timeout. A reconciliation occupies one of the concurrent slots meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a response.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

type RequestError = Box<dyn std::error::Error + Send + Sync>;

/// HTTP client for progress reports.
#[derive(Clone)]
pub struct ProgressReader {
    metrics: Metrics,
}

impl ProgressReader {
    /// A reader that counts its requests in the metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }

    /// The last report of the trainer at this address, if it gives one in time.
    pub async fn read_report(&self, address: &str) -> Option<ProgressReport> {
        let answer = timeout(REQUEST_TIMEOUT, request_report(address, names::HTTP_PORT)).await;
        let (outcome, report) = match answer {
            Ok(Ok(report)) => ("read", Some(report)),
            Ok(Err(error)) => {
                tracing::debug!(address, error, "No progress");
                ("refused", None)
            }
            Err(_) => ("late", None),
        };

        self.metrics
            .progress_reads
            .with_label_values(&[outcome])
            .inc();

        report
    }
}

async fn request_report(address: &str, port: u16) -> Result<ProgressReport, RequestError> {
    // One connection per request: polls are seconds apart, and a pool would hold a socket per run.
    let stream = TcpStream::connect((address, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(names::PATH_PROGRESS)
        .header("host", format!("{address}:{port}"))
        .body(Empty::<Bytes>::new())?;

    let response = sender.send_request(request).await?;
    let status = response.status();
    // The trainer image is chosen by the user: its answer must not exhaust the operator's memory.
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
        .collect()
        .await?
        .to_bytes();

    // Ends the task of the connection, which HTTP/1.1 would keep open for another request.
    connection.abort();
    if status != StatusCode::OK {
        return Err(format!("answered {status}").into());
    }

    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn answer(response: String) -> Result<ProgressReport, RequestError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();

            String::from_utf8_lossy(&request[..length]).into_owned()
        });

        let report = request_report("127.0.0.1", port).await;
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
    async fn what_is_no_report_is_refused() {
        let endless = " ".repeat(MAX_RESPONSE_BYTES + 1);
        let report = serde_json::to_string(&ProgressReport::default()).unwrap();
        let rows = [
            ("200 OK", "<html>"),
            ("404 Not Found", &report),
            ("200 OK", &endless),
        ];

        for (status, body) in rows {
            assert!(
                answer(http(status, body)).await.is_err(),
                "{status} {}",
                body.len()
            );
        }
    }
}
