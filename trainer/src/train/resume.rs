//! Goes on from the newest checkpoint that is whole, or says why that would be another run.

use cnclip_crds::report::ValidationReport;
use cnclip_crds::trainer_config::TrainConfig;

use crate::checkpoint::{
    CONFIG_FILE, Checkpoint, HISTORY_FILE, MOMENTS_FILE, STATE_FILE, TrainingState,
    UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE,
};
use crate::error::{Error, Result};
use crate::progress::history::TrainingHistory;
use crate::weights::{ModelPart, WeightsError, load_moments, load_weights};
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_distributed::Communicator;
use cnclip_nn::ema::WeightEma;
use cnclip_nn::optimizer::AdamW;

/// What an earlier attempt left behind besides weights and moments.
#[derive(Debug, Default)]
pub(super) struct ResumedState {
    pub(super) state: TrainingState,
    pub(super) ema: Option<WeightEma>,
    pub(super) history: TrainingHistory,
    pub(super) best: Option<ValidationReport>,
}

/// Loads the newest checkpoint; `None` if there is none. Rank 0 decides which that is.
///
/// # Errors
/// If none is whole, or the run it belongs to had another model, data set or schedule.
pub(super) fn resume_newest_checkpoint(
    (checkpoints, world): (&Store, &Communicator),
    (config, dataset): (&TrainConfig, &str),
    params: &mut Params,
    adamw: &mut AdamW,
) -> Result<Option<ResumedState>> {
    let found = if world.is_rank_zero() {
        find_resumable_checkpoint(checkpoints, config, dataset)?
    } else {
        None
    };

    let told = found
        .as_ref()
        .map(|found| format!("{}/{}", folder_name(&found.uri), found.digest));

    let told = world.broadcast(told.unwrap_or_default().as_bytes())?;
    let found = match String::from_utf8_lossy(&told).split_once('/') {
        Some((folder, digest)) if found.is_none() => {
            let found = Checkpoint::open_verified(
                &checkpoints.join_prefix(folder),
                &required_files(config),
            )?;
            if found.digest != digest {
                return Err(Error::Data(format!(
                    "{} is not what rank 0 found there.",
                    found.uri
                )));
            }

            Some(found)
        }
        _ => found,
    };

    found
        .map(|found| restore_checkpoint(&found, config, params, adamw))
        .transpose()
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
    let wanted = [
        WEIGHTS_FILE,
        MOMENTS_FILE,
        STATE_FILE,
        CONFIG_FILE,
        HISTORY_FILE,
    ];
    wanted
        .into_iter()
        .chain(
            config
                .optimizer
                .average_decay
                .map(|_| UNAVERAGED_WEIGHTS_FILE),
        )
        .collect()
}

/// The newest checkpoint that is whole, if it is of this run.
fn find_resumable_checkpoint(
    checkpoints: &Store,
    config: &TrainConfig,
    dataset: &str,
) -> Result<Option<Checkpoint>> {
    let Some(checkpoint) = Checkpoint::find_newest(checkpoints, &[STATE_FILE, CONFIG_FILE])? else {
        return Ok(None);
    };

    let state = checkpoint.read_state()?;
    ensure_same_run(&checkpoint, config)?;
    if state.dataset != dataset {
        return Err(Error::Config(format!(
            "{} was trained on other data: {} changed since ({} then, {dataset} now). Put the data back, or \
             begin a new run at another prefix.",
            checkpoint.uri, config.dataset, state.dataset
        )));
    }

    Checkpoint::find_newest(checkpoints, &required_files(config))
}

/// Takes over what a checkpoint holds.
fn restore_checkpoint(
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    params: &mut Params,
    adamw: &mut AdamW,
) -> Result<ResumedState> {
    let state = checkpoint.read_state()?;
    let damaged = WeightsError::error_mapper(&checkpoint.uri, Error::Data);
    load_weights(
        params,
        &checkpoint.open_weights(WEIGHTS_FILE)?,
        ModelPart::All,
    )
    .map_err(&damaged)?;
    let average = config
        .optimizer
        .average_decay
        .map(|decay| WeightEma::new(params, decay));

    if average.is_some() {
        load_weights(
            params,
            &checkpoint.open_weights(UNAVERAGED_WEIGHTS_FILE)?,
            ModelPart::All,
        )
        .map_err(&damaged)?;
    }

    load_moments(params, &checkpoint.open_weights(MOMENTS_FILE)?, adamw).map_err(&damaged)?;
    let history = TrainingHistory::from_jsonl(&String::from_utf8_lossy(
        &checkpoint.read_file(HISTORY_FILE)?,
    ));
    tracing::info!(step = state.step, uri = checkpoint.uri, "resumed");
    let best = history.best_validation();

    Ok(ResumedState {
        state,
        ema: average,
        history,
        best,
    })
}

/// # Errors
/// If a setting that the batches or the weights depend on changed; where the run is reported, how
/// often it is saved, who runs it and how much memory it takes may change.
fn ensure_same_run(checkpoint: &Checkpoint, config: &TrainConfig) -> Result<()> {
    let unreadable = |error| {
        Error::Data(format!(
            "{}/{CONFIG_FILE} is no configuration: {error}",
            checkpoint.uri
        ))
    };

    let before: TrainConfig =
        serde_json::from_slice(&checkpoint.read_file(CONFIG_FILE)?).map_err(unreadable)?;
    let rows = [
        ("model", before.model == config.model),
        (
            "contextLength",
            before.context_length == config.context_length,
        ),
        ("freeze", before.freeze == config.freeze),
        ("length", before.length == config.length),
        (
            "globalBatchSize",
            before.global_batch_size == config.global_batch_size,
        ),
        ("optimizer", before.optimizer == config.optimizer),
        ("duplicates", before.duplicates == config.duplicates),
        ("distillation", before.distillation == config.distillation),
        ("augmentation", before.augmentation == config.augmentation),
        (
            "synchronizeBatchNorm",
            before.synchronize_batch_norm == config.synchronize_batch_norm,
        ),
        (
            "maskedPatchesPercent",
            before.masked_patches_percent == config.masked_patches_percent,
        ),
        ("seed", before.seed == config.seed),
    ];

    match rows.iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Config(format!(
            "{} was made with another {name}, so going on would be another run. Put it back, or begin a new \
             run at another prefix.",
            checkpoint.uri
        ))),
    }
}
