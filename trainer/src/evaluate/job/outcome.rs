//! What an evaluation leaves behind as a whole: its results, the page, and the table. Measures nothing.

use cnclip_crds::artifacts::{REPORT, RESULTS};
use cnclip_crds::report::{Measured, TaskResult, TemplatesReport};
use cnclip_crds::run_config::EvaluateConfig;

use crate::error::{Error, Result};
use crate::evaluate::{Results, table};
use crate::lineage;
use crate::report::page::{PageInput, Task, page};
use crate::source::Found;
use cnclip_data::store::Store;

/// Writes the results and the page, and gives the table.
///
/// # Errors
/// If they cannot be written, or what trained the weights cannot be read.
pub(super) fn write(
    config: &EvaluateConfig,
    found: &Found,
    tasks: Vec<Task>,
    artifacts: &Store,
) -> Result<String> {
    let results: Vec<_> = tasks.iter().map(|task| task.result.clone()).collect();
    let table = table(&results);
    artifacts.put(RESULTS, json(found, results)?.into())?;
    artifacts.put(REPORT, page(&describe(config, found, tasks)?).into())?;

    Ok(table)
}

fn json(found: &Found, tasks: Vec<TaskResult>) -> Result<Vec<u8>> {
    let results = Results {
        checkpoint: found.uri.clone(),
        digest: found.digest.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tasks,
    };

    let unwritten = |error| Error::Bug(format!("{RESULTS} cannot be written: {error}"));
    serde_json::to_vec_pretty(&results).map_err(unwritten)
}

fn describe(config: &EvaluateConfig, found: &Found, tasks: Vec<Task>) -> Result<PageInput> {
    let mut input = match &found.config {
        Some(trained) => PageInput::of(trained, lineage::stages(trained)?),
        None => PageInput::of_weights(&found.model()?),
    };

    let digest = found.digest.clone().unwrap_or_default();
    let weights = [
        ("checkpoint", found.uri.clone()),
        ("checkpoint digest", digest),
    ];

    let weights = weights.map(|(name, value)| (name.to_owned(), value));
    let known = weights.into_iter().chain(tasks.iter().flat_map(inputs));
    input
        .provenance
        .extend(known.filter(|(_, value)| !value.is_empty()));

    Ok(PageInput {
        title: config.run.name.clone(),
        tasks,
        ..input
    })
}

/// What went into a task beside the weights.
fn inputs(task: &Task) -> Vec<(String, String)> {
    let TaskResult {
        name,
        dataset,
        digest,
        measured,
        ..
    } = &task.result;

    let mut found = vec![("data set", dataset.clone()), ("digest", digest.clone())];
    if let Measured::ZeroShot(scores) = measured {
        let TemplatesReport {
            from,
            count,
            digest,
        } = &scores.templates;

        found.push(("templates", format!("{from}, {count} of them")));
        found.push(("templates digest", digest.clone()));
    }

    found
        .into_iter()
        .map(|(what, value)| (format!("{name}: {what}"), value))
        .collect()
}
