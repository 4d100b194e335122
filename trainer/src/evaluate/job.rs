//! One evaluation from its file to its results, on all ranks: finds the checkpoint, scores every task,
//! writes what came out.

use std::sync::Arc;

use cnclip_crds::artifacts::{self as places, REPORT, RESULTS};
use cnclip_crds::model::ModelConfig;
use cnclip_crds::report::{Activity, EvaluationReport, Report, TaskResult};
use cnclip_crds::run_config::{EvaluateConfig, FeatureFormat, TaskConfig, TrainConfig};

use super::{Encoder, Results, Sizes, calibration, files, score, table, zero_shot};
use crate::array::Memory;
use crate::data::shard::Dataset;
use crate::data::tokenize::Tokenizer;
use crate::error::{Error, Result};
use crate::lineage;
use crate::model::clip::{Capacity, Clip, Compute};
use crate::ops::ranks::Ranks;
use crate::params::Params;
use crate::place;
use crate::report::Reporter;
use crate::report::page::{Classes, Examples, PageInput, Public, Shown, Task, page};
use crate::source::{self, CONTEXT_LENGTH, Found};
use crate::store::Store;
use crate::weights::{Part, WeightsError, load};
use crate::world::{Claim, Crew, World};

/// Scores a checkpoint on every task, together with the other workers of the run, and gives the table of
/// what came out: worker 0 alone writes, and has one. `stop` is asked while waiting for the others.
///
/// # Errors
/// If the configuration, the checkpoint or a data set cannot be used, the results cannot be written, or
/// a worker is lost.
///
/// # Guarantees
/// Any number of ranks finds the same, but for the rounding of features that are encoded in other batches.
pub fn evaluate(
    config: &EvaluateConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
) -> Result<String> {
    evaluate_within(config, reporter, stop, &|rank| place::exact(&config.world, rank))
}

/// The same, where `memory` says where each rank computes.
///
/// # Errors
/// Those of [`evaluate`], and of `memory`.
pub fn evaluate_within(
    config: &EvaluateConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let known = EvaluationReport { version, ..EvaluationReport::default() };
    reporter.update(|report| report.evaluation = Some(known));
    let result = score_all(config, reporter, &stop, memory);
    if result.is_err() && source::is_missing(&config.checkpoint) {
        tell(reporter, |evaluation| evaluation.missing = true);
    }
    result
}

/// Changes what is told of what is scored.
fn tell(reporter: &Reporter, change: impl FnOnce(&mut EvaluationReport)) {
    reporter.update(|report| report.evaluation.as_mut().map(change).unwrap_or_default());
}

/// Scores on all ranks of this process.
fn score_all(
    config: &EvaluateConfig,
    reporter: &Reporter,
    stop: &dyn Fn() -> bool,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<String> {
    check(config)?;
    let claim = Claim::new(&config.run, &EvaluateConfig { listen: None, ..config.clone() })?;
    let crew = Crew::join(&config.world, &claim, stop)?;
    let rank = |world: &World, reporter: &Reporter| {
        evaluation(config, (&memory(world.rank())?, world), reporter)
    };
    let mut table = String::new();
    let first = |world: Arc<World>| {
        table = rank(&world, reporter)?;
        Ok(())
    };
    let silent = || Reporter::silent(config.run.clone());
    crew.work(first, |world| rank(&world, &silent()).map(drop))?;
    Ok(table)
}

/// The evaluation as one rank sees it; rank 0 gives the table.
fn evaluation(
    config: &EvaluateConfig,
    (memory, world): (&Memory, &World),
    reporter: &Reporter,
) -> Result<String> {
    let ready = zero_shot::Ready::all(&config.tasks)?;
    let artifacts = Store::open(&config.artifacts)?;
    let found = source::weights(&config.checkpoint)?;
    let (model, trained) = (found.model()?, found.config.as_ref());
    let vocabulary = config.vocabulary.as_ref();
    let vocabulary = vocabulary.or_else(|| trained?.vocabulary.as_ref());
    let tokenizer = source::tokenizer(vocabulary, model.text.vocab_size)?;
    let sizes = sizes(config, &model, trained);
    let (mut clip, mut params) = build(memory, &model, sizes, &found)?;
    world.agree("checkpoint", (&found.digest, bits(&params.values.read())))?;
    reporter.update(|report| begin(report, config));
    tell(reporter, |evaluation| {
        evaluation.checkpoint = Some(found.uri.clone());
        evaluation.digest.clone_from(&found.digest);
    });
    let (mut results, mut tasks) = (Vec::new(), Vec::new());
    let limits = (sizes, config.max_skipped_percent / 100.0);
    let described = zero_shot::Model::of(&model, sizes_of(&params));
    for (task, ready) in config.tasks.iter().zip(&ready) {
        let mut encoder = (&mut clip, &mut params);
        let task = (task, ready.as_ref());
        let to = (&described, &artifacts, config.features.as_slice());
        let done = measure(task, &tokenizer, &mut encoder, limits, (to, world))?;
        results.extend(done.iter().map(|task| task.result.clone()));
        tasks.extend(done);
        reporter.update(|report| {
            report.step += 1;
            report.results = results.clone();
        });
    }
    if world.is_first() {
        write(&artifacts, &found, &results)?;
        artifacts.put(REPORT, page(&describe(config, &model, &found, tasks)?).into())?;
    }
    // Who ends well knows that all do.
    world.meet()?;
    reporter.update(|report| report.activity = Activity::Done);
    Ok(if world.is_first() { table(&results) } else { String::new() })
}

fn bits(numbers: &[f32]) -> &[u32] {
    bytemuck::cast_slice(numbers)
}

/// The names and sizes of a model's tensors.
fn sizes_of(params: &Params) -> impl Iterator<Item = (&str, usize)> + Clone {
    params.segments().iter().map(|segment| (segment.name.as_str(), segment.range.len()))
}

/// What files beside the results are made of and where they go: the model as submissions describe it, the
/// artifacts, and formats of features.
type Destination<'a> = (&'a zero_shot::Model, &'a Store, &'a [FeatureFormat]);

/// Scores one task on all ranks; rank 0 writes what other programs take of it, and chooses what is shown.
fn measure(
    (task, ready): (&TaskConfig, Option<&zero_shot::Ready>),
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    limits: (Sizes, f64),
    ((model, artifacts, features), world): (Destination<'_>, &World),
) -> Result<Option<Task>> {
    let name = &task.name;
    if let Some(retrieval) = &task.retrieval {
        let dataset = Dataset::open(&retrieval.dataset)?;
        let precision = calibration::wanted(task, &dataset)?;
        let scored = score(name, &dataset, tokenizer, encoder, limits, world)?;
        let Some(mut scored) = scored else { return Ok(None) };
        precision.into_iter().for_each(|precision| scored.calibrate(precision));
        files::write(&scored, features, &artifacts.join(&places::task(name)))?;
        let shown = Shown::Retrieval(Examples::of(&scored, &dataset)?);
        let public = retrieval.benchmark.map(Public::Retrieval);
        return Ok(Some(Task { result: scored.result, shown, public }));
    }
    let Some(ready) = ready else { return Err(kindless(task)) };
    let scored = zero_shot::score(ready, tokenizer, encoder, limits, world)?;
    if !world.is_first() {
        return Ok(None);
    }
    scored.write(ready, model, artifacts)?;
    let shown = Shown::ZeroShot(Classes::of(&scored, &ready.store)?);
    let preset = task.zero_shot.as_ref().and_then(|zero_shot| zero_shot.preset);
    let public = preset.map(Public::ZeroShot);
    Ok(Some(Task { result: scored.result, shown, public }))
}

fn kindless(task: &TaskConfig) -> Error {
    Error::Config(format!("task {} must have exactly one of retrieval and zeroShot.", task.name))
}

fn check(config: &EvaluateConfig) -> Result<()> {
    let two_kinds = |task: &&TaskConfig| task.retrieval.is_some() == task.zero_shot.is_some();
    if let Some(task) = config.tasks.iter().find(two_kinds) {
        return Err(kindless(task));
    }
    let problem = if let Some(problem) = config.world.problem() {
        problem
    } else if config.tasks.is_empty() {
        "tasks is empty; name at least one.".to_owned()
    } else if config.batch_size < 1 {
        format!("batchSize is {}; it must be at least 1.", config.batch_size)
    } else if !(0.0..=100.0).contains(&config.max_skipped_percent) {
        format!("maxSkippedPercent is {}; it must be 0 to 100.", config.max_skipped_percent)
    } else {
        return Ok(());
    };
    Err(Error::Config(problem))
}

fn sizes(config: &EvaluateConfig, model: &ModelConfig, trained: Option<&TrainConfig>) -> Sizes {
    let longest = CONTEXT_LENGTH.min(model.text.positions as usize);
    Sizes {
        side: model.image.resolution as usize,
        context_length: trained.map_or(longest, |trained| trained.context_length as usize),
        batch: config.batch_size as usize,
    }
}

fn build(
    memory: &Memory,
    model: &ModelConfig,
    sizes: Sizes,
    found: &Found,
) -> Result<(Clip, Params)> {
    let Sizes { batch, context_length: context, .. } = sizes;
    let compute = Compute { recompute: true, ..Compute::default() };
    let capacity = Capacity { batch, context };
    let (clip, mut params) = Clip::within(memory, model, capacity, compute);
    let unfit = WeightsError::of(&found.uri, Error::Data);
    load(&mut params, &found.tensors, Part::All).map_err(unfit)?;
    memory.check()?;
    Ok((clip, params))
}

fn begin(report: &mut Report, config: &EvaluateConfig) {
    report.activity = Activity::Evaluating;
    report.steps = config.tasks.len() as i64;
}

fn describe(
    config: &EvaluateConfig,
    model: &ModelConfig,
    found: &Found,
    tasks: Vec<Task>,
) -> Result<PageInput> {
    let mut input = match &found.config {
        Some(trained) => PageInput::of(trained, lineage::stages(trained)?),
        None => PageInput::of_weights(model),
    };
    let digest = found.digest.clone().unwrap_or_default();
    let weights = [("checkpoint", &found.uri), ("checkpoint digest", &digest)];
    let weights = weights.map(|(name, value)| (name.to_owned(), value.clone()));
    let data = tasks.iter().flat_map(|task| {
        let TaskResult { name, dataset, digest, .. } = &task.result;
        [("data set", dataset), ("digest", digest)]
            .map(|(what, value)| (format!("{name}: {what}"), value.clone()))
    });
    let known = weights.into_iter().chain(data).filter(|(_, value)| !value.is_empty());
    input.provenance.extend(known);
    Ok(PageInput { title: config.run.name.clone(), tasks, ..input })
}

fn write(artifacts: &Store, found: &Found, results: &[TaskResult]) -> Result<()> {
    let results = Results {
        checkpoint: found.uri.clone(),
        digest: found.digest.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tasks: results.to_vec(),
    };
    let json = serde_json::to_vec_pretty(&results);
    let json = json.map_err(|error| Error::Bug(format!("{RESULTS} cannot be written: {error}")))?;
    artifacts.put(RESULTS, json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of an evaluation that fails.
    fn told(checkpoint: &str) -> EvaluationReport {
        let artifacts = tempfile::tempdir().unwrap();
        let config: EvaluateConfig = serde_json::from_value(serde_json::json!({
            "run": {"name": "score", "stage": "evaluate"},
            "checkpoint": checkpoint,
            "tasks": [{"name": "muge", "retrieval": {"dataset": "nowhere"}}],
            "artifacts": artifacts.path(),
        }))
        .unwrap();
        let reporter = Reporter::silent(config.run.clone());
        evaluate(&config, &reporter, || false).unwrap_err();
        reporter.current().evaluation.unwrap()
    }

    #[test]
    fn only_a_checkpoint_that_is_not_there_is_told_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path).display().to_string();
        std::fs::create_dir_all(folder.path().join("align/checkpoints/20-1")).unwrap();
        std::fs::write(folder.path().join("align/checkpoints/20-1/manifest.json"), "{}").unwrap();
        let rows = [
            ("align/checkpoints/10-1", true),
            ("align/checkpoints/10-1/", true),
            ("align/checkpoints/20-1", false),
            ("align", false),
            ("weights.pt", false),
        ];
        for (path, missing) in rows {
            let found = told(&at(path));
            assert_eq!(found.missing, missing, "{path}");
            assert_eq!(found.version, env!("CARGO_PKG_VERSION"));
        }
    }
}
