//! One evaluation from its file to its results, on all ranks: finds the checkpoint, scores every task,
//! writes what came out.

mod check;
mod evaluated_model;
mod prepared_task;
mod result_files;
mod retrieval_files;

use std::sync::Arc;

use cnclip_crds::report::{EvaluationReport, TrainerActivity};
use cnclip_crds::trainer_config::EvaluateConfig;

use crate::device_placement;
use crate::error::Result;
use crate::model_resolver;
use crate::progress::Reporter;
use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::Memory;
use cnclip_data::store::Store;
use cnclip_distributed::{Communicator, JoinRequest, LocalRanks};
use evaluated_model::EvaluatedModel;
use prepared_task::PreparedTask;

/// Scores a checkpoint on every task, together with the other workers of the run, and gives the table of
/// what came out: worker 0 alone writes, and has one. `stop` is asked while waiting for the others.
///
/// # Errors
/// If the configuration, the checkpoint or a data set cannot be used, the results cannot be written, or
/// a worker is lost.
///
/// # Guarantees
/// Any number of ranks finds the same, but for the rounding of features that are encoded in other batches.
pub fn run_evaluation(
    config: &EvaluateConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
) -> Result<String> {
    run_evaluation_with_memory(config, reporter, stop, &|rank| {
        device_placement::open_fp32_memory(&config.world, rank)
    })
}

/// The same, where `memory` says where each rank computes.
///
/// # Errors
/// Those of [`evaluate`], and of `memory`.
pub fn run_evaluation_with_memory(
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

    reporter.update_report(|report| report.evaluation = Some(known));
    let result = score_on_local_ranks(config, reporter, &stop, memory);
    if result.is_err() && model_resolver::is_missing_checkpoint(&config.checkpoint) {
        update_evaluation(reporter, |evaluation| evaluation.missing = true);
    }

    result
}

/// Changes what is told of what is scored.
fn update_evaluation(reporter: &Reporter, change: impl FnOnce(&mut EvaluationReport)) {
    reporter.update_report(|report| report.evaluation.as_mut().map(change).unwrap_or_default());
}

/// Scores on all ranks of this process.
fn score_on_local_ranks(
    config: &EvaluateConfig,
    reporter: &Reporter,
    stop: &dyn Fn() -> bool,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<String> {
    check::check_config(config)?;
    let ready = PreparedTask::prepare_all(config)?;
    let claim = JoinRequest::new(
        &config.run,
        &EvaluateConfig {
            listen: None,
            ..config.clone()
        },
    )?;

    let crew = LocalRanks::join_workers(&config.world, &claim, stop)?;
    let rank = |world: &Communicator, reporter: &Reporter| {
        evaluate_on_rank((config, &ready), (&memory(world.rank())?, world), reporter)
    };

    let mut table = String::new();
    let first = |world: Arc<Communicator>| {
        table = rank(&world, reporter)?;
        Ok(())
    };

    let silent = || Reporter::without_outputs(config.run.clone());
    crew.run_ranks(first, |world| rank(&world, &silent()).map(drop))?;
    Ok(table)
}

/// The evaluation as one rank sees it; rank 0 gives the table.
fn evaluate_on_rank(
    (config, ready): (&EvaluateConfig, &[PreparedTask]),
    (memory, world): (&Memory, &Communicator),
    reporter: &Reporter,
) -> Result<String> {
    let artifacts = Store::open(&config.artifacts)?;
    let mut subject = EvaluatedModel::load_checkpoint(config, memory)?;
    subject.ensure_same_weights(world)?;
    report_start(config, &subject, reporter);
    let mut tasks = Vec::new();

    for task in config.tasks.iter().zip(ready) {
        let done = subject.score_task(task, (config, &artifacts), world)?;
        reporter.update_report(|report| {
            report.step += 1;
            report
                .results
                .extend(done.iter().map(|task| task.result.clone()));
        });

        tasks.extend(done);
    }

    let table = match world.is_rank_zero() {
        true => result_files::write_results(config, &subject.weights, tasks, &artifacts)?,
        false => String::new(),
    };

    // Who ends well knows that all do.
    world.barrier()?;
    reporter.update_report(|report| report.activity = TrainerActivity::Done);
    Ok(table)
}

fn report_start(config: &EvaluateConfig, subject: &EvaluatedModel, reporter: &Reporter) {
    reporter.update_report(|report| {
        report.activity = TrainerActivity::Evaluating;
        report.steps = config.tasks.len() as i64;
    });

    update_evaluation(reporter, |evaluation| {
        evaluation.checkpoint = Some(subject.weights.uri.clone());
        evaluation.digest.clone_from(&subject.weights.digest);
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

        let reporter = Reporter::without_outputs(config.run.clone());
        run_evaluation(&config, &reporter, || false).unwrap_err();
        reporter.current_report().evaluation.unwrap()
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
