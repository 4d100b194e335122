//! What an evaluation leaves behind as a whole: its results, the page, and the table. Measures nothing.

use cnclip_crds::artifacts::{REPORT, RESULTS};
use cnclip_crds::report::TaskResult;
use cnclip_crds::run_config::EvaluateConfig;

use crate::error::{Error, Result};
use crate::evaluate::zero_shot::{Ready, Templates};
use crate::evaluate::{Results, table};
use crate::lineage;
use crate::report::page::{PageInput, Task, page};
use crate::source::Found;
use crate::store::Store;

/// Writes the results and the page, and gives the table.
///
/// # Errors
/// If they cannot be written, or what trained the weights cannot be read.
pub(super) fn write(
    config: &EvaluateConfig,
    found: &Found,
    (tasks, ready): (Vec<Task>, &[Option<Ready>]),
    artifacts: &Store,
) -> Result<String> {
    let results: Vec<_> = tasks.iter().map(|task| task.result.clone()).collect();
    let table = table(&results);
    artifacts.put(RESULTS, json(found, results)?.into())?;
    artifacts.put(REPORT, page(&describe(config, found, (tasks, ready))?).into())?;
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

fn describe(
    config: &EvaluateConfig,
    found: &Found,
    (tasks, ready): (Vec<Task>, &[Option<Ready>]),
) -> Result<PageInput> {
    let mut input = match &found.config {
        Some(trained) => PageInput::of(trained, lineage::stages(trained)?),
        None => PageInput::of_weights(&found.model()?),
    };
    let digest = found.digest.clone().unwrap_or_default();
    let weights = [("checkpoint", found.uri.clone()), ("checkpoint digest", digest)];
    let weights = weights.map(|(name, value)| (name.to_owned(), value));
    let data = tasks.iter().flat_map(|task| {
        let TaskResult { name, dataset, digest, .. } = &task.result;
        [("data set", dataset), ("digest", digest)]
            .map(|(what, value)| (format!("{name}: {what}"), value.clone()))
    });
    let known = weights.into_iter().chain(data).filter(|(_, value)| !value.is_empty());
    input.provenance.extend(known.chain(ready.iter().flatten().flat_map(templates)));
    Ok(PageInput { title: config.run.name.clone(), tasks, ..input })
}

/// Where a classification's templates are from.
fn templates(ready: &Ready) -> [(String, String); 2] {
    let Templates { from, sha256, texts } = &ready.templates;
    let told = format!("{from}, {} of them", texts.len());
    [("templates", told), ("templates digest", sha256.clone())]
        .map(|(what, value)| (format!("{}: {what}", ready.name), value))
}
