//! Which checkpoint a stage ends with: the best by recall, or the last where recall was not measured.

use cnclip_crds::artifacts::{CHECKPOINTS, FINAL, REPORT};
use cnclip_crds::report::Validation;
use cnclip_crds::run_config::TrainConfig;

use crate::checkpoint::{Kept, list};
use crate::error::{Error, Result};
use crate::lineage;
use crate::report::page::{PageInput, page};
use crate::source::Final;
use cnclip_data::store::Store;

/// What a validation is worth: mean recall, over both directions.
pub(super) fn score(found: &Validation) -> f64 {
    let recalls = &found.recalls;
    (recalls.text_to_image.mean_recall + recalls.image_to_text.mean_recall) / 2.0
}

/// The better of two validations; the later of equals.
pub(super) fn better(best: Option<Validation>, found: Validation) -> Option<Validation> {
    best.filter(|best| score(best) > score(&found))
        .or(Some(found))
}

/// Writes which checkpoint the stage ended with.
///
/// # Errors
/// If there is none, or the store fails.
pub(super) fn write(stage: &Store) -> Result<()> {
    let published = list(&stage.join(CHECKPOINTS))?;
    let best = best(&published)
        .ok_or_else(|| Error::Bug(format!("{} ended without a checkpoint", stage.uri())))?;
    let ending = Final {
        checkpoint: format!("{CHECKPOINTS}/{}", best.folder()),
        step: best.step,
    };

    let bytes = serde_json::to_vec(&ending);
    let bytes = bytes.map_err(|error| Error::Bug(format!("{FINAL} cannot be written: {error}")))?;
    Ok(stage.put(FINAL, bytes.into())?)
}

/// Writes the page of the run, with the curves of all stages up to this one.
///
/// # Errors
/// If the store fails.
pub(super) fn write_page(config: &TrainConfig) -> Result<()> {
    let page = page(&PageInput::of(config, lineage::stages(config)?));
    Ok(Store::open(&config.artifacts)?.put(REPORT, page.into())?)
}

/// Of checkpoints, newest first: the one with the highest score, the newest of equals.
fn best(published: &[Kept]) -> Option<&Kept> {
    let rank = |kept: &&Kept| kept.score.unwrap_or(f64::NEG_INFINITY);
    published
        .iter()
        .rev()
        .max_by(|a, b| rank(a).total_cmp(&rank(b)))
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::{Recall, Recalls};

    use super::*;

    fn validation(step: i64, mean_recall: f64) -> Validation {
        let recall = Recall {
            mean_recall,
            ..Recall::default()
        };

        Validation {
            step,
            recalls: Recalls {
                text_to_image: recall,
                image_to_text: recall,
            },
        }
    }

    #[test]
    fn a_later_validation_replaces_the_best_unless_it_is_worse() {
        let best = better(None, validation(1, 40.0));
        assert_eq!(best, Some(validation(1, 40.0)));
        assert_eq!(better(best, validation(2, 39.0)), best);
        assert_eq!(better(best, validation(2, 40.0)), Some(validation(2, 40.0)));
    }
}
