//! HTTP server of `/metrics` and `/healthz`.

use axum::{Router, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Serves until it is stopped.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve_metrics(
    address: String,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(&address).await?;
    let text = move || {
        let text = metrics.encode_text();
        async move { text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR) }
    };

    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/metrics", get(text));

    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
