//! Answers `/progress`, `/metrics` and `/healthz` from the last report, in a thread of its own.
//! Never asks the loop for anything.

use std::net::{SocketAddr, TcpListener};

use axum::{Json, Router, extract::State, http::StatusCode, http::header, routing::get};
use cnclip_crds::{names, report::Report};
use tokio::sync::{oneshot, watch};

use super::metrics;
use crate::error::{Error, Result};

type Reports = watch::Receiver<Report>;

/// An open port; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    _open: oneshot::Sender<()>,
}

impl Server {
    /// Opens the port and answers from a thread of its own from now on.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub(super) fn start(listen: &str, reports: Reports) -> Result<Self> {
        let refused = |error: std::io::Error| {
            Error::Config(format!(
                "cannot answer on {listen}: {error}. Set `listen` to a free address such as \
                 \"127.0.0.1:{}\", or leave it out to answer nowhere.",
                names::PORT
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
            if let Err(error) = runtime.block_on(serve(socket, reports, closed)) {
                tracing::warn!("no longer answering on {address}: {error}");
            }
        };

        std::thread::Builder::new()
            .name("report".into())
            .spawn(serve)
            .map_err(refused)?;

        Ok(Self {
            address,
            _open: open,
        })
    }

    /// Where it answers: the port is a real one even if the configuration left the choice open.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(
    socket: TcpListener,
    reports: Reports,
    closed: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let answers = axum::serve(socket, router(reports));
    // Not a graceful end: a client that keeps its connection open must not keep the thread.
    tokio::select! {
        ended = answers => ended,
        _ = closed => Ok(()),
    }
}

fn router(reports: Reports) -> Router {
    Router::new()
        .route(names::PATH_PROGRESS, get(progress))
        .route(names::PATH_METRICS, get(scrape))
        .route(names::PATH_HEALTHZ, get(|| async { "alive\n" }))
        .with_state(reports)
}

async fn progress(State(reports): State<Reports>) -> Json<Report> {
    Json(reports.borrow().clone())
}

async fn scrape(
    State(reports): State<Reports>,
) -> std::result::Result<([(header::HeaderName, &'static str); 1], String), (StatusCode, String)> {
    let report = reports.borrow().clone();
    match metrics::text(&report) {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
