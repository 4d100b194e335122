//! Resumes from the newest complete checkpoint, or refuses if it belongs to another run.

use cnclip_crds::report::ValidationReport;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::store::Store;
use cnclip_distributed::Communicator;

use crate::checkpoint::{
    CONFIG_FILE, Checkpoint, HISTORY_FILE, MOMENTS_FILE, STATE_FILE, Seeding, TrainingState,
    UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE,
};
use crate::error::{Error, Result};
use crate::progress::history::TrainingHistory;

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

    /// Reads the counters and curves of a checkpoint.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub(super) fn read_from(checkpoint: &Checkpoint) -> Result<Self> {
        let state = checkpoint.read_state()?;
        let curves = checkpoint.read_file(HISTORY_FILE)?;
        let history = TrainingHistory::from_jsonl(&String::from_utf8_lossy(&curves));
        // The state does not hold the best validation, but the curves hold every recall.
        let best = history.best_validation();
        tracing::info!(step = state.step, uri = checkpoint.uri, "resumed");

        Ok(Self {
            state,
            history,
            best,
        })
    }
}

/// The newest whole checkpoint, the same on all ranks; `None` if there is none.
///
/// # Errors
/// If none is whole, or the run it belongs to had another model, data set or schedule.
pub(super) fn find_checkpoint(
    checkpoints: &Store,
    communicator: &Communicator,
    config: &TrainConfig,
    dataset: &str,
) -> Result<Option<Checkpoint>> {
    // Rank 0 decides: what a store lists, and so what is newest, may differ from rank to rank.
    let found = match communicator.is_rank_zero() {
        true => find_resumable_checkpoint(checkpoints, config, dataset)?,
        false => None,
    };

    // An empty message says that there is none. The broadcast takes place in either case, because a
    // collective that one rank leaves out would block the others.
    let message = found.as_ref().map(announcement).unwrap_or_default();
    let message = communicator.broadcast(message.as_bytes())?;
    let message = String::from_utf8_lossy(&message);
    match message.split_once('/') {
        Some((folder, digest)) if !communicator.is_rank_zero() => {
            let folder = checkpoints.join_prefix(folder);
            open_announced(&folder, digest, config).map(Some)
        }
        _ => Ok(found),
    }
}

/// How rank 0 names a checkpoint to the others: `<folder>/<digest>`.
fn announcement(checkpoint: &Checkpoint) -> String {
    format!("{}/{}", folder_name(&checkpoint.uri), checkpoint.digest)
}

/// The checkpoint that rank 0 found, read by another rank.
fn open_announced(folder: &Store, digest: &str, config: &TrainConfig) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open_verified(folder, &required_files(config))?;
    // Each worker reads through a mount or endpoint of its own, which may lead elsewhere.
    if checkpoint.digest != digest {
        return Err(Error::Data(format!(
            "{} is not what rank 0 found there.",
            checkpoint.uri
        )));
    }

    Ok(checkpoint)
}

/// The name of a checkpoint's folder.
fn folder_name(uri: &str) -> &str {
    uri.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// What is read of a checkpoint.
fn required_files(config: &TrainConfig) -> Vec<&'static str> {
    let mut files = vec![
        WEIGHTS_FILE,
        MOMENTS_FILE,
        STATE_FILE,
        CONFIG_FILE,
        HISTORY_FILE,
    ];

    if config.optimizer.average_decay.is_some() {
        files.push(UNAVERAGED_WEIGHTS_FILE);
    }

    files
}

/// The newest checkpoint that is whole, if it is of this run.
///
/// Small files first: that it is another run's is known before gigabytes are hashed, and is said
/// even where another run's checkpoint lacks files that this one needs.
fn find_resumable_checkpoint(
    checkpoints: &Store,
    config: &TrainConfig,
    dataset: &str,
) -> Result<Option<Checkpoint>> {
    let Some(checkpoint) = Checkpoint::find_newest(checkpoints, &[STATE_FILE, CONFIG_FILE])? else {
        return Ok(None);
    };

    let state = checkpoint.read_state()?;
    ensure_same_recipe(&checkpoint, config)?;
    if state.dataset != dataset {
        return Err(Error::Config(format!(
            "{} was trained on other data: {} changed since ({} then, {dataset} now). Put the data back, or \
             begin a new run at another prefix.",
            checkpoint.uri, config.dataset, state.dataset
        )));
    }

    Checkpoint::find_newest(checkpoints, &required_files(config))
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
