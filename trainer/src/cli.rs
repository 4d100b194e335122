//! What a user may ask for on the command line, and what the exit code says about it.

mod bar;
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
mod score;
mod stop;
mod tokenize;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use cnclip::report::log::Log;
use cnclip_crds::exit::Exit;

/// Trains and scores Chinese-CLIP from one file, with or without a cluster.
#[derive(Debug, Parser)]
#[command(name = "cnclip", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 64 usage, 65 the data cannot be used, 70 a fault of cnclip, \
75 stopped with the state saved (run it again), 78 the configuration or a place it names cannot work.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train one stage; go on from the newest checkpoint if there is one.
    Train(Job),
    /// Score a checkpoint on a list of tasks.
    Evaluate(Job),
    /// Make a data set of shards from the reference's TSV and JSONL files, or index shards.
    Prepare(prepare::Prepare),
    /// Turn texts into ids: JSON objects with a `text` on standard input, a JSON array a line back.
    Tokenize(tokenize::Tokenize),
    /// Turn pictures into what a tower is given, as safetensors.
    Preprocess(preprocess::Preprocess),
    /// Write loss, features and every gradient of one batch, to hold against another implementation.
    Gradients(gradients::Gradients),
    /// Write the unit features of pictures and texts in the reference's feature files.
    Embed(embed::Embed),
    /// Write a model as others load it: for `transformers`, or for the reference's `cn_clip`.
    Export(export::Export),
    /// Score retrieval from feature files: recall in both directions as JSON.
    Score(score::Score),
    /// Put runs beside one another: a table of their recalls, and a page with their curves.
    Compare(compare::Compare),
    /// Tell what weights are: towers, parameters, whose layout, step, digests.
    Inspect(inspect::Inspect),
    /// Tell which NVIDIA cards this machine has, and whether they compute.
    Device(device::Device),
    /// Time training steps on made-up pairs.
    #[command(hide = true)]
    Bench(bench::Bench),
}

/// A job that one file describes.
#[derive(Args, Debug)]
struct Job {
    /// The file: JSON or YAML, as the operator writes it to run.json.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Answer /progress, /metrics and /healthz on this address, whatever the file says.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> Exit {
        let log = match Log::start() {
            Ok(log) => log,
            // There is no log to say it in.
            Err(_) => return Exit::Bug,
        };

        let done = match self.command {
            Command::Train(job) => return jobs::train(&job.config, job.listen, &log),
            Command::Evaluate(job) => return jobs::evaluate(&job.config, job.listen, &log),
            Command::Prepare(prepare) => prepare.run(),
            Command::Tokenize(tokenize) => tokenize.run(),
            Command::Preprocess(preprocess) => preprocess.run(),
            Command::Gradients(gradients) => gradients.run(),
            Command::Embed(embed) => embed.run(),
            Command::Export(export) => export.run(),
            Command::Score(score) => score.run(),
            Command::Compare(compare) => compare.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Device(device) => device.run(),
            Command::Bench(bench) => bench.run(),
        };

        match done {
            Ok(()) => Exit::Done,
            Err(error) if error.is_closed_pipe() => Exit::Done,
            Err(error) => {
                tracing::error!("{error}");
                error.exit()
            }
        }
    }
}
