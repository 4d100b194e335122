//! Goes on from the newest checkpoint that is whole, or says why that would be another run.

use cnclip_crds::report::Validation;
use cnclip_crds::run_config::TrainConfig;

use crate::checkpoint::{CONFIG, Checkpoint, HISTORY, MOMENTS, STATE, State, UNAVERAGED, WEIGHTS};
use crate::error::{Error, Result};
use crate::report::history::History;
use crate::weights::{Part, WeightsError, load, load_moments};
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_distributed::World;
use cnclip_nn::average::Average;
use cnclip_nn::optimizer::AdamW;

/// What an earlier attempt left behind besides weights and moments.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) state: State,
    pub(super) average: Option<Average>,
    pub(super) history: History,
    pub(super) best: Option<Validation>,
}

/// Loads the newest checkpoint; `None` if there is none. Rank 0 decides which that is.
///
/// # Errors
/// If none is whole, or the run it belongs to had another model, data set or schedule.
pub(super) fn newest(
    (checkpoints, world): (&Store, &World),
    (config, dataset): (&TrainConfig, &str),
    params: &mut Params,
    adamw: &mut AdamW,
) -> Result<Option<Resumed>> {
    let found = if world.is_first() {
        find(checkpoints, config, dataset)?
    } else {
        None
    };

    let told = found
        .as_ref()
        .map(|found| format!("{}/{}", folder(&found.uri), found.digest));

    let told = world.hear(told.unwrap_or_default().as_bytes())?;
    let found = match String::from_utf8_lossy(&told).split_once('/') {
        Some((folder, digest)) if found.is_none() => {
            let found = Checkpoint::read(&checkpoints.join(folder), &wanted(config))?;
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
        .map(|found| take(&found, config, params, adamw))
        .transpose()
}

/// The name of a checkpoint's folder.
fn folder(uri: &str) -> &str {
    uri.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// What is read of a checkpoint.
fn wanted(config: &TrainConfig) -> Vec<&'static str> {
    let wanted = [WEIGHTS, MOMENTS, STATE, CONFIG, HISTORY];
    wanted
        .into_iter()
        .chain(config.optimizer.average_decay.map(|_| UNAVERAGED))
        .collect()
}

/// The newest checkpoint that is whole, if it is of this run.
fn find(checkpoints: &Store, config: &TrainConfig, dataset: &str) -> Result<Option<Checkpoint>> {
    let Some(checkpoint) = Checkpoint::newest(checkpoints, &[STATE, CONFIG])? else {
        return Ok(None);
    };

    let state = checkpoint.state()?;
    same_run(&checkpoint, config)?;
    if state.dataset != dataset {
        return Err(Error::Config(format!(
            "{} was trained on other data: {} changed since ({} then, {dataset} now). Put the data back, or \
             begin a new run at another prefix.",
            checkpoint.uri, config.dataset, state.dataset
        )));
    }

    Checkpoint::newest(checkpoints, &wanted(config))
}

/// Takes over what a checkpoint holds.
fn take(
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    params: &mut Params,
    adamw: &mut AdamW,
) -> Result<Resumed> {
    let state = checkpoint.state()?;
    let damaged = WeightsError::of(&checkpoint.uri, Error::Data);
    load(params, &checkpoint.weights(WEIGHTS)?, Part::All).map_err(&damaged)?;
    let average = config
        .optimizer
        .average_decay
        .map(|decay| Average::new(params, decay));

    if average.is_some() {
        load(params, &checkpoint.weights(UNAVERAGED)?, Part::All).map_err(&damaged)?;
    }

    load_moments(params, &checkpoint.weights(MOMENTS)?, adamw).map_err(&damaged)?;
    let history = History::from_jsonl(&String::from_utf8_lossy(&checkpoint.file(HISTORY)?));
    tracing::info!(step = state.step, uri = checkpoint.uri, "resumed");
    let best = history.best();

    Ok(Resumed {
        state,
        average,
        history,
        best,
    })
}

/// # Errors
/// If a setting that the batches or the weights depend on changed; where the run is reported, how
/// often it is saved, who runs it and how much memory it takes may change.
fn same_run(checkpoint: &Checkpoint, config: &TrainConfig) -> Result<()> {
    let unreadable = |error| {
        Error::Data(format!(
            "{}/{CONFIG} is no configuration: {error}",
            checkpoint.uri
        ))
    };

    let before: TrainConfig =
        serde_json::from_slice(&checkpoint.file(CONFIG)?).map_err(unreadable)?;
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
