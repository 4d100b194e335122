//! Resumes from the newest complete checkpoint, or refuses if it belongs to another run.

use cnclip_crds::report::ValidationReport;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::store::Store;
use cnclip_distributed::Communicator;
use serde::{Deserialize, Serialize};

use super::stepper::Stepper;
use crate::checkpoint::{
    CONFIG_FILE, Checkpoint, CheckpointSearch, HISTORY_FILE, STATE_FILE, Seeding, TrainingState,
};
use crate::error::{Error, Result};
use crate::progress::history::TrainingHistory;
use crate::rank_values::broadcast_json;

/// What an earlier attempt left behind besides tensors.
#[derive(Debug)]
pub(super) struct ResumedState {
    pub(super) state: TrainingState,
    pub(super) history: TrainingHistory,
    pub(super) best: Option<ValidationReport>,
}

impl ResumedState {
    /// That of a run that begins.
    pub(super) fn fresh() -> Self {
        let state = TrainingState {
            seeding: Seeding::Stage,
            ..TrainingState::default()
        };

        Self {
            state,
            history: TrainingHistory::default(),
            best: None,
        }
    }

    fn parse(found: FoundState) -> Self {
        let history = TrainingHistory::from_jsonl(&found.curves);
        // The state does not hold the best validation, but the curves hold every recall.
        let best = history.best_validation();

        Self {
            state: found.state,
            history,
            best,
        }
    }
}

/// The small files of a checkpoint, as rank 0 sends them to the others.
#[derive(Debug, Serialize, Deserialize)]
struct FoundState {
    state: TrainingState,
    /// The lines of [`HISTORY_FILE`].
    curves: String,
}

impl FoundState {
    /// Reads the counters and curves of a checkpoint.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read_from(checkpoint: &Checkpoint) -> Result<Self> {
        let state = checkpoint.read_state()?;
        let curves = checkpoint.read_file(HISTORY_FILE)?;
        let curves = String::from_utf8_lossy(&curves).into_owned();
        Ok(Self { state, curves })
    }
}

/// Restores the newest whole checkpoint of the run, or initializes the weights if there is none: the same on all ranks.
/// Rank 0 alone reads, and sends the others what it has read and proven.
///
/// # Errors
/// If no checkpoint is whole, or the run it belongs to had another model, data set or schedule; if the initial weights
/// cannot be used, or a rank is lost.
pub(super) fn restore_or_initialize(
    stepper: &mut Stepper,
    checkpoints: &Store,
    communicator: &Communicator,
    config: &TrainConfig,
    dataset: &str,
) -> Result<ResumedState> {
    let mut found = None;
    if communicator.is_rank_zero() {
        found = load_newest_checkpoint(stepper, checkpoints, config, dataset)?;
        if found.is_none() {
            stepper.initialize_weights(config)?;
        }
    }

    // Only now: whatever rank 0 found wrong, no other rank has seen anything of it.
    let found: Option<FoundState> = broadcast_json(communicator, &found)?;
    stepper.broadcast_weights(communicator)?;
    match found {
        Some(found) => {
            stepper.broadcast_moments(communicator)?;
            Ok(ResumedState::parse(found))
        }
        None => Ok(ResumedState::fresh()),
    }
}

/// Loads the newest checkpoint that is whole and of this run. Tensors are proven while they are loaded: those of a
/// checkpoint that turns out damaged are overwritten by those of the one before.
fn load_newest_checkpoint(
    stepper: &mut Stepper,
    checkpoints: &Store,
    config: &TrainConfig,
    dataset: &str,
) -> Result<Option<FoundState>> {
    let mut search = CheckpointSearch::start(checkpoints)?;
    // Small files first: that it is another run's is known before gigabytes are read, and is said even where another
    // run's checkpoint lacks files that this one needs.
    while let Some(checkpoint) = search.next_checkpoint(&[STATE_FILE, CONFIG_FILE])? {
        ensure_same_recipe(&checkpoint, config)?;
        ensure_same_data(&checkpoint, config, dataset)?;

        let found = FoundState::read_from(&checkpoint);
        match found.and_then(|found| stepper.load_checkpoint(&checkpoint).map(|()| found)) {
            Ok(found) => {
                tracing::info!(step = found.state.step, uri = checkpoint.uri, "resumed");
                return Ok(Some(found));
            }
            Err(error) => search.skip_damaged(error)?,
        }
    }

    Ok(None)
}

/// Ensures that a checkpoint was trained on the data set with this digest.
///
/// # Errors
/// If it was not, or its state cannot be read.
fn ensure_same_data(checkpoint: &Checkpoint, config: &TrainConfig, dataset: &str) -> Result<()> {
    let state = checkpoint.read_state()?;
    if state.dataset == dataset {
        return Ok(());
    }

    Err(Error::Config(format!(
        "{} was trained on other data: {} changed since ({} then, {dataset} now). Put the data back, or \
         begin a new run at another prefix.",
        checkpoint.uri, config.dataset, state.dataset
    )))
}

/// Ensures that a checkpoint was written with the recipe of `config`, so that resuming continues the same run.
/// Everything outside the recipe may change: reporting, checkpoint interval, hardware, memory.
///
/// # Errors
/// If the recipes differ; names every field with both values.
fn ensure_same_recipe(checkpoint: &Checkpoint, config: &TrainConfig) -> Result<()> {
    let uri = &checkpoint.uri;
    let unreadable =
        |error| Error::Data(format!("{uri}/{CONFIG_FILE} is no configuration: {error}"));

    let saved: TrainConfig =
        serde_json::from_slice(&checkpoint.read_file(CONFIG_FILE)?).map_err(unreadable)?;

    let differences = saved.recipe().differences(&config.recipe());
    if differences.is_empty() {
        return Ok(());
    }

    let fields: Vec<_> = differences.iter().map(ToString::to_string).collect();
    Err(Error::Config(format!(
        "{uri} was written with another recipe: {}. Resuming would mix two runs. Restore these fields, or start \
         a new run at another prefix.",
        fields.join(", ")
    )))
}
