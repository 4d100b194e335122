//! The command that tells what weights are.

use std::io::Write;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::exchange::{inspect, output};

/// Reads names, shapes and configuration, never values: of four gigabytes as fast as of four.
#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// Weights: a file, a folder, a checkpoint, the prefix of a stage, or hf://organisation/name.
    uri: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<()> {
        let found = inspect::inspect(&self.uri)?;
        let mut out = std::io::stdout().lock();
        let written = match self.json {
            true => output::line(&mut out, &serde_json::json!(found)),
            false => write!(out, "{found}"),
        };

        written.map_err(Error::file("write", "standard output"))
    }
}
