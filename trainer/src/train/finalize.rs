//! Which checkpoint a stage ends with: the best by recall, or the last where recall was not measured.

use cnclip_crds::artifacts::{CHECKPOINTS_FOLDER, FINAL_FILE, REPORT_FILE};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::store::Store;

use crate::checkpoint::{ListedCheckpoint, list_checkpoints};
use crate::error::{Error, Result};
use crate::model_resolver::FinalCheckpoint;
use crate::page::{PageInput, render_page};
use crate::stage_chain;

/// Writes which checkpoint the stage ended with.
///
/// # Errors
/// If there is none, or the store fails.
pub(super) fn write_final_checkpoint(stage: &Store) -> Result<()> {
    let published = list_checkpoints(&stage.join_prefix(CHECKPOINTS_FOLDER))?;
    let best = best_checkpoint(&published)
        .ok_or_else(|| Error::Bug(format!("{} ended without a checkpoint", stage.uri())))?;

    let final_checkpoint = FinalCheckpoint {
        checkpoint: format!("{CHECKPOINTS_FOLDER}/{}", best.folder_name()),
        step: best.step,
    };

    let bytes = serde_json::to_vec(&final_checkpoint)
        .map_err(|error| Error::Bug(format!("{FINAL_FILE} cannot be written: {error}")))?;

    stage.put(FINAL_FILE, bytes.into())?;
    Ok(())
}

/// Writes the page of the run, with the curves of all stages up to this one.
///
/// # Errors
/// If the store fails.
pub(super) fn write_report_page(config: &TrainConfig) -> Result<()> {
    let stages = stage_chain::collect_stages(config)?;
    let page = render_page(&PageInput::from_training(config, stages));
    Ok(Store::open(&config.artifacts)?.put(REPORT_FILE, page.into())?)
}

/// Of checkpoints, newest first: the one with the highest score, the newest of equals.
fn best_checkpoint(published: &[ListedCheckpoint]) -> Option<&ListedCheckpoint> {
    // A checkpoint without a score, written between two validations, is below any with one.
    let score = |checkpoint: &ListedCheckpoint| checkpoint.score.unwrap_or(f64::NEG_INFINITY);
    // Of equals `max_by` gives the last, which is the newest once the order is reversed.
    published
        .iter()
        .rev()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
}
