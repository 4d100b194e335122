//! The command that tells what weights are.

use std::io::Write;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::interop::{atomic_file, inspect};

/// Reads names, shapes and configuration, never values: of four gigabytes as fast as of four.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// Weights: a file, a folder, a checkpoint, the prefix of a stage, or hf://organisation/name.
    uri: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub(super) fn run(&self) -> Result<()> {
        let found = inspect::inspect_weights(&self.uri)?;
        let mut out = std::io::stdout().lock();
        let written = match self.json {
            true => atomic_file::write_json_line(&mut out, &serde_json::json!(found)),
            false => write!(out, "{found}"),
        };

        written.map_err(Error::io_context("write", "standard output"))
    }
}
