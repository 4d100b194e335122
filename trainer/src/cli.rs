//! The command line: subcommands, their arguments, and exit codes.

mod bench;
mod compare;
mod device;
mod embed;
mod export;
mod gradients;
mod inspect;
mod jobs;
mod prepare;
mod preprocess;
mod progress_bar;
mod score;
mod signals;
mod tokenize;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use cnclip::progress::logging::ProcessLog;
use cnclip_crds::exit_code::TrainerExit;

/// Trains and evaluates Chinese-CLIP models, on one machine or as the workers of a Kubernetes job.
#[derive(Debug, Parser)]
#[command(name = "cnclip", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

// sysexits.h, so that the operator and scripts can tell what is worth a retry: 75 always is, 70 may be, the
// others are not until a person changes something.
const EXIT_CODES: &str = "Exit codes: 0 success, 64 invalid usage, 65 unusable data, 70 internal error, 75 \
interrupted with the state saved (run it again to resume), 78 invalid configuration or unreachable location.";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Train one stage; resumes from the newest checkpoint if there is one.
    Train(JobArgs),
    /// Evaluate a checkpoint on a list of tasks.
    Evaluate(JobArgs),
    /// Convert the reference's TSV, JSONL or LMDB files to WebDataset shards, or index existing shards.
    Prepare(prepare::PrepareArgs),
    /// Tokenize texts: reads JSON objects with a `text` on standard input, writes a JSON array of ids per line.
    Tokenize(tokenize::TokenizeArgs),
    /// Preprocess images into the input tensors of the image tower, as safetensors.
    Preprocess(preprocess::PreprocessArgs),
    /// Write loss, features and all gradients of one batch, to compare with another implementation.
    Gradients(gradients::GradientsArgs),
    /// Compute the L2-normalized embeddings of images and texts.
    Embed(embed::EmbedArgs),
    /// Export a model for Hugging Face `transformers`, or for the reference's `cn_clip`.
    Export(export::ExportArgs),
    /// Compute retrieval recall in both directions from feature files, as JSON.
    Score(score::ScoreArgs),
    /// Compare training runs: a table of their recalls, and an HTML page with their curves.
    Compare(compare::CompareArgs),
    /// Describe weights: architecture, parameters, format, step, digests.
    Inspect(inspect::InspectArgs),
    /// List the NVIDIA GPUs of this machine, and run a self-test on each.
    Device(device::DeviceArgs),
    /// Compare one training step on this machine's device with candle's autograd on the CPU.
    Verify(verify::VerifyArgs),
    /// Benchmark training steps on synthetic data.
    #[command(hide = true)]
    Bench(bench::BenchArgs),
}

/// A job described by a configuration file.
#[derive(Args, Debug)]
struct JobArgs {
    /// Configuration file, JSON or YAML; the operator writes it as run.json.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Address on which to serve /progress, /metrics and /healthz; overrides the file.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Cli {
    /// Runs the subcommand.
    pub(crate) fn run(self) -> TrainerExit {
        let log = match ProcessLog::init_logging() {
            Ok(log) => log,
            // Without a log there is nowhere to report the error.
            Err(_) => return TrainerExit::Bug,
        };

        let done = match self.command {
            // Jobs report failures themselves, in the termination message too.
            CliCommand::Train(job) => return jobs::run_training(&job.config, job.listen, &log),
            CliCommand::Evaluate(job) => {
                return jobs::run_evaluation(&job.config, job.listen, &log);
            }
            CliCommand::Prepare(prepare) => prepare.run(),
            CliCommand::Tokenize(tokenize) => tokenize.run(),
            CliCommand::Preprocess(preprocess) => preprocess.run(),
            CliCommand::Gradients(gradients) => gradients.run(),
            CliCommand::Embed(embed) => embed.run(),
            CliCommand::Export(export) => export.run(),
            CliCommand::Score(score) => score.run(),
            CliCommand::Compare(compare) => compare.run(),
            CliCommand::Inspect(inspect) => inspect.run(),
            CliCommand::Device(device) => device.run(),
            CliCommand::Verify(verify) => verify.run(),
            CliCommand::Bench(bench) => bench.run(),
        };

        match done {
            Ok(()) => TrainerExit::Done,
            // `cnclip score … | head` closes the pipe early: the reader's choice, not a failure.
            Err(error) if error.is_broken_pipe() => TrainerExit::Done,
            Err(error) => {
                tracing::error!("{error}");
                error.exit_code()
            }
        }
    }
}
