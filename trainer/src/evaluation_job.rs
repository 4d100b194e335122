//! An evaluation job on all ranks: resolves the checkpoint, scores every task, writes the results.

mod check;
mod evaluated_model;
mod prepared_task;
mod result_files;

use std::sync::Arc;

use cnclip_crds::report::{EvaluationReport, TrainerActivity};
use cnclip_crds::trainer_config::EvaluateConfig;

use crate::device_placement;
use crate::error::Result;
use crate::evaluate::{EncodeOptions, EncoderInputSizes};
use crate::model_resolver;
use crate::progress::Reporter;
use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::Memory;
use cnclip_data::store::Store;
use cnclip_distributed::{Communicator, JoinRequest, LocalRanks};
use evaluated_model::EvaluatedModel;
use prepared_task::PreparedTask;

/// What every task of an evaluation needs.
#[derive(Clone, Copy)]
struct EvaluationContext<'a> {
    config: &'a EvaluateConfig,
    /// The prefix of the results.
    artifacts: &'a Store,
    communicator: &'a Communicator,
}

impl EvaluationContext<'_> {
    fn encode_options(&self, input_sizes: EncoderInputSizes) -> EncodeOptions {
        EncodeOptions {
            input_sizes,
            max_skipped_ratio: self.config.max_skipped_percent / 100.0,
        }
    }
}

/// Scores a checkpoint on every task, together with the other workers of the run, and returns the table of
/// the results on worker 0, which alone writes files. `stop` is polled while waiting for the other workers.
///
/// # Errors
/// If the configuration, the checkpoint or a data set cannot be used, the results cannot be written, or
/// a worker is lost.
///
/// # Guarantees
/// The results are the same for any number of ranks, except for rounding where features are encoded in
/// batches of other sizes.
pub fn run_evaluation(config: &EvaluateConfig, reporter: &Reporter) -> Result<String> {
    run_evaluation_with_memory(config, reporter, &|rank| {
        device_placement::open_fp32_memory(&config.world, rank)
    })
}

/// As [`run_evaluation`], with `memory` choosing the device of each rank.
///
/// # Errors
/// Those of [`run_evaluation`], and of `memory`.
pub fn run_evaluation_with_memory(
    config: &EvaluateConfig,
    reporter: &Reporter,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    // Reported before the weights are resolved, so that a failure to resolve them has the version too.
    let known = EvaluationReport {
        version,
        ..EvaluationReport::default()
    };

    reporter.update_report(|report| report.evaluation = Some(known));
    let result = score_on_local_ranks(config, reporter, memory);
    if result.is_err() && model_resolver::is_missing_checkpoint(&config.checkpoint) {
        update_evaluation(reporter, |evaluation| evaluation.missing = true);
    }

    result
}

/// Updates the evaluation's part of the report.
fn update_evaluation(reporter: &Reporter, change: impl FnOnce(&mut EvaluationReport)) {
    reporter.update_report(|report| report.evaluation.as_mut().map(change).unwrap_or_default());
}

/// Scores on all ranks of this process.
fn score_on_local_ranks(
    config: &EvaluateConfig,
    reporter: &Reporter,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<String> {
    // Before joining: an unusable configuration or data set is reported at once, not only when all
    // workers have started.
    check::check_config(config)?;
    let tasks = PreparedTask::prepare_all(config)?;

    // Workers must agree on the configuration, but each listens on an address of its own.
    let shared_config = EvaluateConfig {
        listen: None,
        ..config.clone()
    };
    let request = JoinRequest::new(&config.run, &shared_config)?;
    let ranks = LocalRanks::join_workers(&config.world, &request)?;

    let evaluate = |communicator: &Communicator, reporter: &Reporter| {
        let memory = memory(communicator.rank())?;
        let artifacts = Store::open(&config.artifacts)?;
        let context = EvaluationContext {
            config,
            artifacts: &artifacts,
            communicator,
        };

        evaluate_on_rank(context, &tasks, &memory, reporter)
    };

    let mut table = String::new();
    let first_rank = |communicator: Arc<Communicator>| {
        table = evaluate(&communicator, reporter)?;
        Ok(())
    };

    // Ranks of one process report once: the reporters of the others have no outputs.
    let other_rank = |communicator: Arc<Communicator>| {
        let silent = Reporter::without_outputs(config.run.clone());
        evaluate(&communicator, &silent).map(drop)
    };

    ranks.run_ranks(first_rank, other_rank)?;
    Ok(table)
}

/// Evaluates on one rank; rank 0 returns the table.
fn evaluate_on_rank(
    context: EvaluationContext<'_>,
    tasks: &[PreparedTask],
    memory: &Memory,
    reporter: &Reporter,
) -> Result<String> {
    let config = context.config;
    let communicator = context.communicator;
    let mut model = EvaluatedModel::load_checkpoint(config, memory, communicator)?;
    model.ensure_same_weights(communicator)?;
    report_start(config, &model, reporter);

    let mut sections = Vec::new();
    for task in tasks {
        let section = task.score(&mut model, context)?;
        // After each task, so that the results of an evaluation that is killed later are known.
        reporter.update_report(|report| {
            report.step += 1;
            report
                .results
                .extend(section.iter().map(|section| section.result.clone()));
        });

        sections.extend(section);
    }

    // Rank 0 alone has the weights as they were found, and writes.
    let table = match &model.weights {
        Some(found) => result_files::write_results(config, found, sections, context.artifacts)?,
        None => String::new(),
    };

    // Final barrier: the success of one rank implies the success of all.
    communicator.barrier()?;
    reporter.update_report(|report| report.activity = TrainerActivity::Done);
    Ok(table)
}

fn report_start(config: &EvaluateConfig, model: &EvaluatedModel, reporter: &Reporter) {
    reporter.update_report(|report| {
        report.activity = TrainerActivity::Evaluating;
        report.steps = config.tasks.len() as i64;
    });

    update_evaluation(reporter, |evaluation| {
        evaluation.checkpoint = Some(model.origin.uri.clone());
        evaluation.digest.clone_from(&model.origin.digest);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of an evaluation that fails.
    fn failed_report(checkpoint: &str) -> EvaluationReport {
        let artifacts = tempfile::tempdir().unwrap();
        let config: EvaluateConfig = serde_json::from_value(serde_json::json!({
            "run": {"name": "score", "stage": "evaluate"},
            "checkpoint": checkpoint,
            "tasks": [{"name": "muge", "retrieval": {"dataset": "nowhere"}}],
            "artifacts": artifacts.path(),
        }))
        .unwrap();

        let reporter = Reporter::without_outputs(config.run.clone());
        run_evaluation(&config, &reporter).unwrap_err();
        reporter.current_report().evaluation.unwrap()
    }

    #[test]
    fn only_a_checkpoint_that_does_not_exist_is_reported_as_missing() {
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
            let found = failed_report(&at(path));
            assert_eq!(found.missing, missing, "{path}");
            assert_eq!(found.version, env!("CARGO_PKG_VERSION"));
        }
    }
}
