//! What a user may ask for on the command line, and what the exit code says about it.

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

/// Trains and scores Chinese-CLIP from one file, with or without a cluster.
#[derive(Debug, Parser)]
#[command(name = "cnclip", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 64 usage, 65 the data cannot be used, 70 a fault of cnclip, \
75 stopped with the state saved (run it again), 78 the configuration or a place it names cannot work.";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Train one stage; go on from the newest checkpoint if there is one.
    Train(JobArgs),
    /// Score a checkpoint on a list of tasks.
    Evaluate(JobArgs),
    /// Make a data set of shards from the reference's TSV and JSONL files, or index shards.
    Prepare(prepare::PrepareArgs),
    /// Turn texts into ids: JSON objects with a `text` on standard input, a JSON array a line back.
    Tokenize(tokenize::TokenizeArgs),
    /// Turn pictures into what a tower is given, as safetensors.
    Preprocess(preprocess::PreprocessArgs),
    /// Write loss, features and every gradient of one batch, to hold against another implementation.
    Gradients(gradients::GradientsArgs),
    /// Write the unit features of pictures and texts in the reference's feature files.
    Embed(embed::EmbedArgs),
    /// Write a model as others load it: for `transformers`, or for the reference's `cn_clip`.
    Export(export::ExportArgs),
    /// Score retrieval from feature files: recall in both directions as JSON.
    Score(score::ScoreArgs),
    /// Put runs beside one another: a table of their recalls, and a page with their curves.
    Compare(compare::CompareArgs),
    /// Tell what weights are: towers, parameters, whose layout, step, digests.
    Inspect(inspect::InspectArgs),
    /// Tell which NVIDIA cards this machine has, and whether they compute.
    Device(device::DeviceArgs),
    /// Compare one training step on this machine's device with candle's autograd on the CPU.
    Verify(verify::VerifyArgs),
    /// Time training steps on made-up pairs.
    #[command(hide = true)]
    Bench(bench::BenchArgs),
}

/// A job that one file describes.
#[derive(Args, Debug)]
struct JobArgs {
    /// The file: JSON or YAML, as the operator writes it to run.json.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Answer /progress, /metrics and /healthz on this address, whatever the file says.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> TrainerExit {
        let log = match ProcessLog::init_logging() {
            Ok(log) => log,
            // There is no log to say it in.
            Err(_) => return TrainerExit::Bug,
        };

        let done = match self.command {
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
            Err(error) if error.is_broken_pipe() => TrainerExit::Done,
            Err(error) => {
                tracing::error!("{error}");
                error.exit_code()
            }
        }
    }
}
