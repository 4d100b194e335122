//! Serves `/progress`, `/metrics` and `/healthz` from the last report, in a thread of its own. Never waits
//! for the training loop.

use std::net::{SocketAddr, TcpListener};

use axum::{Json, Router, extract::State, http::StatusCode, http::header, routing::get};
use cnclip_crds::{names, report::ProgressReport};
use tokio::sync::{oneshot, watch};

use super::metrics;
use crate::error::{Error, Result};
use crate::threads::spawn_named;

type ReportReceiver = watch::Receiver<ProgressReport>;

/// An open port; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct ProgressServer {
    address: SocketAddr,
    _shutdown: oneshot::Sender<()>,
}

impl ProgressServer {
    /// Opens the port and serves it in a thread of its own.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub(super) fn start(listen: &str, reports: ReportReceiver) -> Result<Self> {
        let to_error = |error: std::io::Error| {
            Error::Config(format!(
                "cannot answer on {listen}: {error}. Set `listen` to a free address such as \
                 \"127.0.0.1:{}\", or leave it out to answer nowhere.",
                names::HTTP_PORT
            ))
        };

        // Bound in the caller's thread, so that an address in use is an error of the start.
        let socket = TcpListener::bind(listen).map_err(to_error)?;
        socket.set_nonblocking(true).map_err(to_error)?;
        let address = socket.local_addr().map_err(to_error)?;
        let (shutdown, closed) = oneshot::channel();
        // One thread of its own: tasks on a runtime that others use could starve behind their work, and
        // a kubelet takes a probe that times out for a dead process.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(to_error)?;

        let serve = move || {
            if let Err(error) = runtime.block_on(serve_http(socket, reports, closed)) {
                tracing::warn!("stopped serving {address}: {error}");
            }
        };

        spawn_named("http", serve).map_err(to_error)?;

        Ok(Self {
            address,
            _shutdown: shutdown,
        })
    }

    /// The bound address: the port is the real one even if the configuration asked for any.
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
    let server = axum::serve(socket, build_router(reports));
    // No graceful shutdown: a client that keeps its connection open must not keep the process.
    tokio::select! {
        ended = server => ended,
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
    // Cloned first: encoding under the channel's read lock would block the training loop's update.
    let report = reports.borrow().clone();
    match metrics::encode_metrics(&report) {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
