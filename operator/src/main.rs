//! The program `cnclip-operator`: reads its command line, starts what it asks for, ends in order.

use std::{io::Write, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use cnclip_operator::{
    controller, definitions,
    lease::Leadership,
    metrics::Metrics,
    options::{Command, Options, RunOptions},
    reconcile::Context,
    run::Defaults,
    server,
};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Crds => print_definitions(),
        Command::Run(options) => run(options),
    }
}

fn print_definitions() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (_, yaml) in definitions::files()? {
        writeln!(out, "---\n{yaml}")?;
    }

    Ok(())
}

#[tokio::main]
async fn run(options: RunOptions) -> anyhow::Result<()> {
    start_logging();
    let client = connect().await.context("no access to a cluster")?;
    let metrics = Metrics::new()?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let server = tokio::spawn(server::serve(
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
        lead(client, options, metrics, &stop).await;
    } else {
        work(client, options, metrics, stop.clone()).await;
    }

    // Also when the lease was lost: Kubernetes starts a fresh candidate.
    stop.cancel();
    server.await?.context("serving metrics")
}

/// A client that gives up soon on an API server that does not answer, and tries again.
async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(10));
    Ok(Client::try_from(config)?)
}

/// One JSON object a line; the libraries say only what went wrong.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,cnclip_operator=info"));
    let json = tracing_subscriber::fmt().json().flatten_event(true);
    json.with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
}

/// Works while this replica leads.
async fn lead(client: Client, options: RunOptions, metrics: Metrics, stop: &CancellationToken) {
    let leadership = Leadership::new(
        client.clone(),
        &options.pod_namespace,
        &options.pod_name,
        metrics.clone(),
    );

    if !leadership.won(stop).await {
        return;
    }

    tracing::info!(candidate = options.pod_name, "Leading");
    let stop_work = stop.child_token();
    let working = tokio::spawn(work(client, options, metrics, stop_work.clone()));
    leadership.keep(stop).await;
    stop_work.cancel();

    if let Err(error) = working.await {
        tracing::error!(%error, "The controllers did not end in order");
    }

    leadership.release().await;
}

/// Reconciles both kinds until told to stop.
async fn work(client: Client, options: RunOptions, metrics: Metrics, stop: CancellationToken) {
    let defaults = Defaults {
        cuda_image: options
            .trainer_cuda_image
            .unwrap_or_else(|| options.trainer_image.clone()),
        image: options.trainer_image,
        progress_interval_seconds: options.progress_interval,
    };

    let context = Arc::new(Context::new(client.clone(), defaults, metrics));
    let namespace = options.namespace.filter(|namespace| !namespace.is_empty());
    tokio::join!(
        controller::run::<CnClipTraining>(
            client.clone(),
            namespace.clone(),
            context.clone(),
            stop.clone()
        ),
        controller::run::<CnClipEvaluation>(client, namespace, context, stop),
    );
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
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
