//! Answers `/progress`, `/metrics` and `/healthz` from the last report, in a thread of its own.
//! Never asks the loop for anything.

use std::net::{SocketAddr, TcpListener};

use axum::{Json, Router, extract::State, http::StatusCode, http::header, routing::get};
use cnclip_crds::{names, report::ProgressReport};
use tokio::sync::{oneshot, watch};

use super::metrics;
use crate::error::{Error, Result};

type ReportReceiver = watch::Receiver<ProgressReport>;

/// An open port; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct ProgressServer {
    address: SocketAddr,
    _shutdown: oneshot::Sender<()>,
}

impl ProgressServer {
    /// Opens the port and answers from a thread of its own from now on.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub(super) fn start(listen: &str, reports: ReportReceiver) -> Result<Self> {
        let refused = |error: std::io::Error| {
            Error::Config(format!(
                "cannot answer on {listen}: {error}. Set `listen` to a free address such as \
                 \"127.0.0.1:{}\", or leave it out to answer nowhere.",
                names::HTTP_PORT
            ))
        };

        let socket = TcpListener::bind(listen).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        let (open, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();

        let runtime = runtime.map_err(refused)?;
        let serve = move || {
            if let Err(error) = runtime.block_on(serve_http(socket, reports, closed)) {
                tracing::warn!("no longer answering on {address}: {error}");
            }
        };

        std::thread::Builder::new()
            .name("report".into())
            .spawn(serve)
            .map_err(refused)?;

        Ok(Self {
            address,
            _shutdown: open,
        })
    }

    /// Where it answers: the port is a real one even if the configuration left the choice open.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve_http(
    socket: TcpListener,
    reports: ReportReceiver,
    closed: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let answers = axum::serve(socket, build_router(reports));
    // Not a graceful end: a client that keeps its connection open must not keep the thread.
    tokio::select! {
        ended = answers => ended,
        _ = closed => Ok(()),
    }
}

fn build_router(reports: ReportReceiver) -> Router {
    Router::new()
        .route(names::PATH_PROGRESS, get(progress_handler))
        .route(names::PATH_METRICS, get(metrics_handler))
        .route(names::PATH_HEALTHZ, get(|| async { "alive\n" }))
        .with_state(reports)
}

async fn progress_handler(State(reports): State<ReportReceiver>) -> Json<ProgressReport> {
    Json(reports.borrow().clone())
}

async fn metrics_handler(
    State(reports): State<ReportReceiver>,
) -> std::result::Result<([(header::HeaderName, &'static str); 1], String), (StatusCode, String)> {
    let report = reports.borrow().clone();
    match metrics::encode_metrics(&report) {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
