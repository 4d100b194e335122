//! The training stages that led to a model, found by following each stage's initial weights. Reads curves and
//! configurations, never weights.

use cnclip_crds::artifacts::{self, METRICS_FILE};
use cnclip_crds::trainer_config::TrainConfig;

use crate::error::Result;
use crate::model_resolver;
use crate::progress::history::{StageCurves, TrainingHistory};
use cnclip_data::store::Store;

/// Longer chains are cut: a stage that was started again from its own successor makes a cycle.
const MAX_STAGES: usize = 32;

/// The stages in the order in which they were trained, the one of this configuration last.
///
/// # Errors
/// If the store fails. A stage that was deleted ends the chain.
pub fn collect_stages(last: &TrainConfig) -> Result<Vec<StageCurves>> {
    follow_initial_weights(last, |_| true)
}

/// Those of them that belong to the same run.
///
/// # Errors
/// If the store fails.
pub fn collect_run_stages(last: &TrainConfig) -> Result<Vec<StageCurves>> {
    follow_initial_weights(last, |config| config.run.name == last.run.name)
}

fn follow_initial_weights(
    last: &TrainConfig,
    wanted: impl Fn(&TrainConfig) -> bool,
) -> Result<Vec<StageCurves>> {
    let mut stages = Vec::new();
    let mut next = Some(last.clone());
    while let Some(config) = next.filter(|config| stages.len() < MAX_STAGES && wanted(config)) {
        let store = Store::open(&artifacts::stage_prefix(
            &config.artifacts,
            &config.run.stage,
        ))?;
        let Some(curves) = store.get_if_exists(METRICS_FILE)? else {
            break;
        };

        let points = TrainingHistory::from_jsonl(&String::from_utf8_lossy(&curves))
            .points()
            .to_vec();

        stages.push(StageCurves {
            name: stage_label(&config, last),
            points,
        });

        let weights = config.initial_weights;
        next = match weights.model.or(weights.image) {
            Some(uri) => model_resolver::find_training_config(&uri)?,
            None => None,
        };
    }

    stages.reverse();
    Ok(stages)
}

/// Stages of other runs carry the run's name.
fn stage_label(config: &TrainConfig, last: &TrainConfig) -> String {
    match config.run.name == last.run.name {
        true => config.run.stage.clone(),
        false => format!("{}/{}", config.run.name, config.run.stage),
    }
}
