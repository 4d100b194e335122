//! Which checkpoint a stage ends with: the best by recall, or the last where recall was not measured.

use cnclip_crds::artifacts::{CHECKPOINTS_FOLDER, FINAL_FILE, REPORT_FILE};
use cnclip_crds::report::ValidationReport;
use cnclip_crds::trainer_config::TrainConfig;

use crate::checkpoint::{ListedCheckpoint, list_checkpoints};
use crate::error::{Error, Result};
use crate::model_resolver::FinalCheckpoint;
use crate::page::{PageInput, render_page};
use crate::stage_chain;
use cnclip_data::store::Store;

/// What a validation is worth: mean recall, over both directions.
pub(super) fn validation_score(found: &ValidationReport) -> f64 {
    let recalls = &found.recalls;
    (recalls.text_to_image.mean_recall + recalls.image_to_text.mean_recall) / 2.0
}

/// The better of two validations; the later of equals.
pub(super) fn better_validation(
    best: Option<ValidationReport>,
    found: ValidationReport,
) -> Option<ValidationReport> {
    best.filter(|best| validation_score(best) > validation_score(&found))
        .or(Some(found))
}

/// Writes which checkpoint the stage ended with.
///
/// # Errors
/// If there is none, or the store fails.
pub(super) fn write_final_checkpoint(stage: &Store) -> Result<()> {
    let published = list_checkpoints(&stage.join_prefix(CHECKPOINTS_FOLDER))?;
    let best = best_checkpoint(&published)
        .ok_or_else(|| Error::Bug(format!("{} ended without a checkpoint", stage.uri())))?;
    let ending = FinalCheckpoint {
        checkpoint: format!("{CHECKPOINTS_FOLDER}/{}", best.folder_name()),
        step: best.step,
    };

    let bytes = serde_json::to_vec(&ending);
    let bytes =
        bytes.map_err(|error| Error::Bug(format!("{FINAL_FILE} cannot be written: {error}")))?;
    Ok(stage.put(FINAL_FILE, bytes.into())?)
}

/// Writes the page of the run, with the curves of all stages up to this one.
///
/// # Errors
/// If the store fails.
pub(super) fn write_report_page(config: &TrainConfig) -> Result<()> {
    let page = render_page(&PageInput::from_training(
        config,
        stage_chain::collect_stages(config)?,
    ));
    Ok(Store::open(&config.artifacts)?.put(REPORT_FILE, page.into())?)
}

/// Of checkpoints, newest first: the one with the highest score, the newest of equals.
fn best_checkpoint(published: &[ListedCheckpoint]) -> Option<&ListedCheckpoint> {
    let rank = |kept: &&ListedCheckpoint| kept.score.unwrap_or(f64::NEG_INFINITY);
    published
        .iter()
        .rev()
        .max_by(|a, b| rank(a).total_cmp(&rank(b)))
}

#[cfg(test)]
mod tests {
    use cnclip_crds::tasks::{RecallAtK, RetrievalRecalls};

    use super::*;

    fn validation(step: i64, mean_recall: f64) -> ValidationReport {
        let recall = RecallAtK {
            mean_recall,
            ..RecallAtK::default()
        };

        ValidationReport {
            step,
            recalls: RetrievalRecalls {
                text_to_image: recall,
                image_to_text: recall,
            },
        }
    }

    #[test]
    fn a_later_validation_replaces_the_best_unless_it_is_worse() {
        let best = better_validation(None, validation(1, 40.0));
        assert_eq!(best, Some(validation(1, 40.0)));
        assert_eq!(better_validation(best, validation(2, 39.0)), best);
        assert_eq!(
            better_validation(best, validation(2, 40.0)),
            Some(validation(2, 40.0))
        );
    }
}
