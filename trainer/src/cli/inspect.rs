//! `cnclip inspect`: describes weights.

use std::io::Write;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::interop::{atomic_file, inspect};

/// Reads tensor names, shapes and configuration but no values, so that large files take no longer.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// Weights: a file, a folder, a checkpoint, the prefix of a stage, or hf://organization/name.
    uri: String,
    /// Print a JSON object instead of a table.
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
