//! `cnclip compare`: compares training runs.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::page::{RunCurves, format_comparison_table, render_comparison};
use cnclip::{model_resolver, stage_chain};

/// Names and locations of the runs.
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// NAME=URI: display name of a run, and the prefix of its last stage.
    #[arg(required = true, value_name = "NAME=URI", value_parser = parse_named_uri)]
    runs: Vec<NamedUri>,
    /// Also write an HTML page with the curves.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Title of the page.
    #[arg(long, default_value = "Runs compared")]
    title: String,
}

#[derive(Clone, Debug)]
struct NamedUri {
    name: String,
    uri: String,
}

fn parse_named_uri(argument: &str) -> std::result::Result<NamedUri, String> {
    match argument.split_once('=') {
        Some((name, uri)) if !name.is_empty() && !uri.is_empty() => Ok(NamedUri {
            name: name.into(),
            uri: uri.into(),
        }),
        _ => Err("write NAME=URI, such as two-stage=s3://runs/two-stage/pretrain/".into()),
    }
}

impl CompareArgs {
    pub(super) fn run(&self) -> Result<()> {
        let runs = self
            .runs
            .iter()
            .map(read_run_curves)
            .collect::<Result<Vec<_>>>()?;
        if let Some(page) = &self.page {
            let now = jiff::Timestamp::now().as_second();
            let written = std::fs::write(page, render_comparison(&self.title, &runs, now));
            written.map_err(Error::io_context("write", page))?;
        }

        let shown = std::io::stdout().write_all(format_comparison_table(&runs).as_bytes());
        shown.map_err(Error::io_context("write", "standard output"))
    }
}

fn read_run_curves(run: &NamedUri) -> Result<RunCurves> {
    let NamedUri { name, uri } = run;
    let config = model_resolver::find_training_config(uri)?.ok_or_else(|| {
        Error::Config(format!(
            "{name}: {uri} holds no checkpoint of cnclip. Give the prefix of a stage, <artifacts>/<stage>/."
        ))
    })?;

    Ok(RunCurves {
        name: name.clone(),
        stages: stage_chain::collect_run_stages(&config)?,
    })
}
