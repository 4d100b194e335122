//! Goes on from the newest checkpoint that is whole, or says why that would be another run.

use cnclip_crds::report::Validation;
use cnclip_crds::run_config::TrainConfig;

use crate::average::Average;
use crate::checkpoint::{CONFIG, Checkpoint, HISTORY, MOMENTS, STATE, State, UNAVERAGED, WEIGHTS};
use crate::error::{Error, Result};
use crate::optimizer::AdamW;
use crate::params::Params;
use crate::report::history::History;
use crate::store::Store;
use crate::weights::{Part, WeightsError, load, load_moments};

/// What an earlier attempt left behind besides weights and moments.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) state: State,
    pub(super) average: Option<Average>,
    pub(super) history: History,
    pub(super) best: Option<Validation>,
}

/// Loads the newest checkpoint; `None` if there is none.
///
/// # Errors
/// If none is whole, or the run it belongs to had another model, data set or schedule.
pub(super) fn newest(
    checkpoints: &Store,
    config: &TrainConfig,
    dataset: &str,
    params: &mut Params,
    adamw: &mut AdamW,
) -> Result<Option<Resumed>> {
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
    let decay = config.optimizer.average_decay;
    let wanted = [WEIGHTS, MOMENTS, STATE, CONFIG, HISTORY];
    let wanted: Vec<&str> = wanted.into_iter().chain(decay.map(|_| UNAVERAGED)).collect();
    let Some(checkpoint) = Checkpoint::newest(checkpoints, &wanted)? else { return Ok(None) };
    let state = checkpoint.state()?;
    let damaged = WeightsError::of(&checkpoint.uri, Error::Data);
    load(params, &checkpoint.weights(WEIGHTS)?, Part::All).map_err(&damaged)?;
    let average = decay.map(|decay| Average::new(params, decay));
    if average.is_some() {
        load(params, &checkpoint.weights(UNAVERAGED)?, Part::All).map_err(&damaged)?;
    }
    load_moments(params, &checkpoint.weights(MOMENTS)?, adamw).map_err(&damaged)?;
    let history = History::from_jsonl(&String::from_utf8_lossy(&checkpoint.file(HISTORY)?));
    tracing::info!(step = state.step, uri = checkpoint.uri, "resumed");
    let best = history.best();
    Ok(Some(Resumed { state, average, history, best }))
}

/// # Errors
/// If a setting that the batches or the weights depend on changed; where the run is reported, how
/// often it is saved, who runs it and how much memory it takes may change.
fn same_run(checkpoint: &Checkpoint, config: &TrainConfig) -> Result<()> {
    let unreadable =
        |error| Error::Data(format!("{}/{CONFIG} is no configuration: {error}", checkpoint.uri));
    let before: TrainConfig =
        serde_json::from_slice(&checkpoint.file(CONFIG)?).map_err(unreadable)?;
    let rows = [
        ("model", before.model == config.model),
        ("contextLength", before.context_length == config.context_length),
        ("freeze", before.freeze == config.freeze),
        ("length", before.length == config.length),
        ("globalBatchSize", before.global_batch_size == config.global_batch_size),
        ("optimizer", before.optimizer == config.optimizer),
        ("duplicates", before.duplicates == config.duplicates),
        ("distillation", before.distillation == config.distillation),
        ("augmentation", before.augmentation == config.augmentation),
        ("synchronizeBatchNorm", before.synchronize_batch_norm == config.synchronize_batch_norm),
        ("maskedPatchesPercent", before.masked_patches_percent == config.masked_patches_percent),
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
