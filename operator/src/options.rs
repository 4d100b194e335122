//! The command line of the operator.

use clap::{Args, Parser, Subcommand};

/// Reconciles CnClipTraining and CnClipEvaluation into pods.
#[derive(Debug, Parser)]
#[command(version)]
pub struct OperatorOptions {
    /// Command.
    #[command(subcommand)]
    pub command: OperatorCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Watch the cluster and reconcile.
    Run(RunOptions),
    /// Print the CustomResourceDefinitions.
    Crds,
}

/// Options of the controller.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Default trainer image.
    #[arg(long, env = "TRAINER_IMAGE")]
    pub trainer_image: String,
    /// Default trainer image for GPUs. Unset: the default trainer image.
    #[arg(long, env = "TRAINER_CUDA_IMAGE")]
    pub trainer_cuda_image: Option<String>,
    /// Namespace to watch. Unset: all namespaces.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub namespace: Option<String>,
    /// Interval in seconds at which the progress of a running run is read.
    #[arg(long, env = "PROGRESS_INTERVAL", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub progress_interval: u64,
    /// Listen address of /metrics and /healthz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: String,
    /// Enable leader election, by a Lease in this pod's namespace.
    #[arg(long, env = "LEADER_ELECTION")]
    pub leader_election: bool,
    /// Namespace of this pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
    /// Name of this pod: its identity in the leader election.
    #[arg(long, env = "POD_NAME", default_value = "cnclip-operator")]
    pub pod_name: String,
}
