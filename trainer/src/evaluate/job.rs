//! One evaluation from its file to its results, on all ranks: finds the checkpoint, scores every task,
//! writes what came out.

mod check;
mod outcome;
mod ready;
mod subject;

use std::sync::Arc;

use cnclip_crds::report::{Activity, EvaluationReport};
use cnclip_crds::run_config::EvaluateConfig;

use crate::error::Result;
use crate::place;
use crate::report::Reporter;
use crate::source;
use cnclip_compute::collective::Ranks;
use cnclip_compute::tensor::Memory;
use cnclip_data::store::Store;
use cnclip_distributed::{Claim, Crew, World};
use ready::Ready;
use subject::Subject;

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
    evaluate_within(config, reporter, stop, &|rank| {
        place::exact(&config.world, rank)
    })
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
    let known = EvaluationReport {
        version,
        ..EvaluationReport::default()
    };

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
    check::check(config)?;
    let ready = Ready::all(config)?;
    let claim = Claim::new(
        &config.run,
        &EvaluateConfig {
            listen: None,
            ..config.clone()
        },
    )?;

    let crew = Crew::join(&config.world, &claim, stop)?;
    let rank = |world: &World, reporter: &Reporter| {
        evaluation((config, &ready), (&memory(world.rank())?, world), reporter)
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
    (config, ready): (&EvaluateConfig, &[Ready]),
    (memory, world): (&Memory, &World),
    reporter: &Reporter,
) -> Result<String> {
    let artifacts = Store::open(&config.artifacts)?;
    let mut subject = Subject::find(config, memory)?;
    subject.agree(world)?;
    begin(config, &subject, reporter);
    let mut tasks = Vec::new();

    for task in config.tasks.iter().zip(ready) {
        let done = subject.measure(task, (config, &artifacts), world)?;
        reporter.update(|report| {
            report.step += 1;
            report
                .results
                .extend(done.iter().map(|task| task.result.clone()));
        });

        tasks.extend(done);
    }

    let table = match world.is_first() {
        true => outcome::write(config, &subject.found, tasks, &artifacts)?,
        false => String::new(),
    };

    // Who ends well knows that all do.
    world.meet()?;
    reporter.update(|report| report.activity = Activity::Done);
    Ok(table)
}

fn begin(config: &EvaluateConfig, subject: &Subject, reporter: &Reporter) {
    reporter.update(|report| {
        report.activity = Activity::Evaluating;
        report.steps = config.tasks.len() as i64;
    });

    tell(reporter, |evaluation| {
        evaluation.checkpoint = Some(subject.found.uri.clone());
        evaluation.digest.clone_from(&subject.found.digest);
    });
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
        std::fs::write(
            folder.path().join("align/checkpoints/20-1/manifest.json"),
            "{}",
        )
        .unwrap();

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
