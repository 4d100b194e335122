//! Which checkpoint a stage ends with: the best by recall, or the last where recall was not measured.

use cnclip_crds::artifacts::{CHECKPOINTS_FOLDER, FINAL_FILE, REPORT_FILE};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::store::Store;

use crate::checkpoint::{
    CONFIG_FILE, Checkpoint, ListedCheckpoint, WEIGHTS_FILE, list_checkpoints,
};
use crate::error::{Error, Result};
use crate::model_resolver::FinalCheckpoint;
use crate::page::{PageInput, render_page};
use crate::stage_chain;

/// Writes which checkpoint the stage ended with.
///
/// # Errors
/// If none is whole, or the store fails.
pub(super) fn write_final_checkpoint(stage: &Store) -> Result<()> {
    let checkpoints = stage.join_prefix(CHECKPOINTS_FOLDER);
    let best = find_best_whole(&checkpoints)?;
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

/// The best checkpoint whose files are what was written: the next stage and every evaluation would fail on a damaged
/// one.
fn find_best_whole(checkpoints: &Store) -> Result<ListedCheckpoint> {
    let mut published = list_checkpoints(checkpoints)?;
    sort_best_first(&mut published);

    for candidate in &published {
        let folder = checkpoints.join_prefix(&candidate.folder_name());
        let found = Checkpoint::open(&folder, &[CONFIG_FILE]);
        match found.and_then(|checkpoint| checkpoint.verify_files(&[WEIGHTS_FILE])) {
            Ok(()) => return Ok(*candidate),
            Err(error @ (Error::Data(_) | Error::Config(_))) => {
                tracing::warn!(
                    "a better checkpoint is damaged and not the one the stage ends with: {error}"
                );
            }
            Err(error) => return Err(error),
        }
    }

    Err(Error::Data(format!(
        "{} holds no whole checkpoint to end the stage with, of {}.",
        checkpoints.uri(),
        published.len()
    )))
}

/// Of checkpoints, newest first: by score, the newest first of equals.
fn sort_best_first(published: &mut [ListedCheckpoint]) {
    // A checkpoint without a score, written between two validations, is below any with one.
    let score = |checkpoint: &ListedCheckpoint| checkpoint.score.unwrap_or(f64::NEG_INFINITY);
    // The sort is stable.
    published.sort_by(|a, b| score(b).total_cmp(&score(a)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{CheckpointSnapshot, CheckpointWriter, Fence, FenceClaim};

    #[test]
    fn a_stage_ends_with_the_best_checkpoint_that_is_whole() {
        let stage = Store::in_memory();
        let claim = FenceClaim {
            run: "run".into(),
            attempt: 1,
        };

        let fence = Fence::acquire(&stage, claim).unwrap();
        let checkpoints = stage.join_prefix(CHECKPOINTS_FOLDER);
        let mut writer = CheckpointWriter::new(checkpoints.clone(), fence, 9);
        let scores = [(1, Some(0.3)), (2, Some(0.9)), (3, Some(0.5)), (4, None)];

        for (step, score) in scores {
            let files = [WEIGHTS_FILE, CONFIG_FILE].map(|name| (name.to_owned(), "bytes".into()));
            let snapshot = CheckpointSnapshot {
                step,
                score,
                files: files.into(),
            };

            writer.start_write(snapshot).unwrap();
            writer.finish_write().unwrap();
        }

        let final_step = || {
            write_final_checkpoint(&stage).unwrap();
            let bytes = stage.get(FINAL_FILE).unwrap();
            serde_json::from_slice::<FinalCheckpoint>(&bytes)
                .unwrap()
                .step
        };

        assert_eq!(final_step(), 2);
        let damage = |folder: &str, bytes: &'static str| {
            let name = format!("{folder}/{WEIGHTS_FILE}");
            checkpoints.put(&name, bytes.into()).unwrap();
        };

        damage("00000002-1", "Bytes");
        assert_eq!(final_step(), 3);
        damage("00000001-1", "byte");
        damage("00000003-1", "");
        assert_eq!(
            final_step(),
            4,
            "one without a score, where no other is whole"
        );
        damage("00000004-1", "");
        let error = write_final_checkpoint(&stage).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
    }
}
