//! The results of an evaluation as JSON, as an HTML report and as a table.

use cnclip_crds::artifacts::{REPORT_FILE, RESULTS_FILE};
use cnclip_crds::tasks::{TaskResult, TemplatesReport};
use cnclip_crds::trainer_config::EvaluateConfig;

use crate::error::{Error, Result};
use crate::evaluate::{EvaluationResults, format_results_table};
use crate::model_resolver::ResolvedWeights;
use crate::page::{PageInput, TaskSection, render_page};
use crate::stage_chain;
use cnclip_data::store::Store;

/// Writes the results and the report, and returns the table.
///
/// # Errors
/// If they cannot be written, or what trained the weights cannot be read.
pub(super) fn write_results(
    config: &EvaluateConfig,
    found: &ResolvedWeights,
    tasks: Vec<TaskSection>,
    artifacts: &Store,
) -> Result<String> {
    let results: Vec<_> = tasks.iter().map(|task| task.result.clone()).collect();
    let table = format_results_table(&results);
    // Before the page: a process that ends between both writes leaves the scores complete.
    artifacts.put(RESULTS_FILE, encode_results(found, results)?.into())?;
    artifacts.put(
        REPORT_FILE,
        render_page(&build_page_input(config, found, tasks)?).into(),
    )?;

    Ok(table)
}

fn encode_results(found: &ResolvedWeights, tasks: Vec<TaskResult>) -> Result<Vec<u8>> {
    let results = EvaluationResults {
        checkpoint: found.uri.clone(),
        digest: found.digest.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tasks,
    };

    let unwritten = |error| Error::Bug(format!("{RESULTS_FILE} cannot be written: {error}"));
    serde_json::to_vec_pretty(&results).map_err(unwritten)
}

fn build_page_input(
    config: &EvaluateConfig,
    found: &ResolvedWeights,
    tasks: Vec<TaskSection>,
) -> Result<PageInput> {
    let mut input = match &found.config {
        Some(trained) => PageInput::from_training(trained, stage_chain::collect_stages(trained)?),
        // Weights from elsewhere carry no record of their training.
        None => PageInput::from_model(&found.model_config()?),
    };

    let digest = found.digest.clone().unwrap_or_default();
    let weights = [
        ("checkpoint", found.uri.clone()),
        ("checkpoint digest", digest),
    ];

    let weights = weights.map(|(name, value)| (name.to_owned(), value));
    let known = weights
        .into_iter()
        .chain(tasks.iter().flat_map(task_provenance));
    input
        .provenance
        .extend(known.filter(|(_, value)| !value.is_empty()));

    Ok(PageInput {
        title: config.run.name.clone(),
        tasks,
        ..input
    })
}

/// The provenance of a task, except for the weights.
fn task_provenance(task: &TaskSection) -> Vec<(String, String)> {
    let TaskResult {
        name,
        dataset,
        digest,
        measured,
        ..
    } = &task.result;

    let mut found = vec![("data set", dataset.clone()), ("digest", digest.clone())];
    if let Some(templates) = measured.templates() {
        let TemplatesReport {
            from,
            count,
            digest,
        } = templates;

        found.push(("templates", format!("{from}, {count} of them")));
        found.push(("templates digest", digest.clone()));
    }

    found
        .into_iter()
        .map(|(what, value)| (format!("{name}: {what}"), value))
        .collect()
}
