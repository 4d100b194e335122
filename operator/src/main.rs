//! The program `cnclip-operator`.

use std::{io::Write, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use cnclip_operator::{
    controller, crd_manifests,
    lease::{LeaderElection, LeaseTerm},
    metrics::Metrics,
    options::{OperatorCommand, OperatorOptions, RunOptions},
    progress_reader::HttpReader,
    reconcile::ReconcileContext,
    resolve::TrainerDefaults,
    server,
};
use kube::{Client, Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout_at,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    match OperatorOptions::parse().command {
        OperatorCommand::Crds => print_crds(),
        OperatorCommand::Run(options) => run_operator(options),
    }
}

fn print_crds() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (_, yaml) in crd_manifests::crd_files()? {
        writeln!(out, "---\n{yaml}")?;
    }

    Ok(())
}

#[tokio::main]
async fn run_operator(options: RunOptions) -> anyhow::Result<()> {
    init_logging();
    let client = connect_client().await.context("no access to a cluster")?;
    let metrics = Metrics::new()?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    // Before the election: standby replicas must answer their probes too.
    let server = tokio::spawn(server::serve_metrics(
        options.listen.clone(),
        metrics.clone(),
        stop.clone(),
    ));

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trainer_image = options.trainer_image,
        "Started"
    );

    if options.leader_election {
        run_as_leader(client, options, metrics, &stop).await;
    } else {
        run_controllers(client, options, metrics, stop.clone()).await;
    }

    // Exits also when the lease is lost: the kubelet restarts the container as a new candidate, without state
    // of the old term.
    stop.cancel();
    server.await?.context("serving metrics")
}

/// A client with short timeouts: a request that hangs would occupy a concurrent reconciliation.
async fn connect_client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    // No read timeout: it would also end watches, on which nothing may arrive for minutes.
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(10));
    Ok(Client::try_from(config)?)
}

/// JSON lines; libraries log warnings only.
fn init_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,cnclip_operator=info"));
    let json = tracing_subscriber::fmt().json().flatten_event(true);
    json.with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
}

/// Runs the controllers while this replica is the leader.
async fn run_as_leader(
    client: Client,
    options: RunOptions,
    metrics: Metrics,
    stop: &CancellationToken,
) {
    let leadership = LeaderElection::new(
        client.clone(),
        &options.pod_namespace,
        &options.pod_name,
        metrics.clone(),
    );

    let Some(term) = leadership.wait_until_leader(stop).await else {
        return;
    };

    tracing::info!(candidate = options.pod_name, "Leading");
    // A child token: losing the lease stops the controllers, while the metrics are served until
    // they have ended.
    let stop_work = stop.child_token();
    let working = tokio::spawn(run_controllers(client, options, metrics, stop_work.clone()));
    let last_term = leadership.keep_renewing(term, stop).await;
    stop_work.cancel();
    end_work(working, last_term).await;

    // Only after the controllers have stopped, so that the next leader does not write at the same time.
    leadership.release_lease().await;
}

/// Waits for the controllers, but not longer than the term: what still runs then is aborted, because another
/// replica may be the leader.
async fn end_work(mut working: JoinHandle<()>, last_term: LeaseTerm) {
    let Ok(ended) = timeout_at(last_term.ends_at(), &mut working).await else {
        tracing::error!("Controllers aborted: they did not stop before the lease expires");
        working.abort();
        // Until the abort has happened; its result is the abort itself.
        let _ = working.await;
        return;
    };

    // A panic of the controllers: the lease is still released, so that another replica can take
    // over.
    if let Err(error) = ended {
        tracing::error!(%error, "Controllers not stopped cleanly");
    }
}

/// Runs the controllers of both kinds, and the poller of progress, until stopped.
async fn run_controllers(
    client: Client,
    options: RunOptions,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let defaults = TrainerDefaults {
        cuda_image: options
            .trainer_cuda_image
            .unwrap_or_else(|| options.trainer_image.clone()),
        image: options.trainer_image,
        progress_interval_seconds: options.progress_interval,
    };

    let context = Arc::new(ReconcileContext::new(client.clone(), defaults, metrics));
    let poller = context.poller().clone();
    // The Helm chart always sets WATCH_NAMESPACE, and leaves it empty for all namespaces.
    let namespace = options.namespace.filter(|namespace| !namespace.is_empty());
    tokio::join!(
        poller.poll_pods(HttpReader, stop.clone()),
        controller::run_controller::<CnClipTraining>(
            client.clone(),
            namespace.clone(),
            context.clone(),
            stop.clone()
        ),
        controller::run_controller::<CnClipEvaluation>(client, namespace, context, stop),
    );
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    // Registered before the future first runs, so that no signal is lost between startup and its
    // first poll.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }

        tracing::info!("Stopping");
        stop.cancel();
    })
}
