//! The stages that led to a model, found by following where the weights of each came from. Reads
//! curves and configurations, never weights.

use cnclip_crds::artifacts::{self, METRICS};
use cnclip_crds::run_config::TrainConfig;

use crate::error::Result;
use crate::report::history::History;
use crate::report::page::Stage;
use crate::source;
use cnclip_data::store::Store;

/// Longer lines of ancestors are cut: somebody made a circle.
const MOST_STAGES: usize = 32;

/// The stages in the order in which they were trained, the one of this configuration last.
///
/// # Errors
/// If the store fails. Ancestors that are no longer there end the line.
pub fn stages(last: &TrainConfig) -> Result<Vec<Stage>> {
    line(last, |_| true)
}

/// Those of them that belong to the same run.
///
/// # Errors
/// If the store fails.
pub fn own_stages(last: &TrainConfig) -> Result<Vec<Stage>> {
    line(last, |config| config.run.name == last.run.name)
}

fn line(last: &TrainConfig, wanted: impl Fn(&TrainConfig) -> bool) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    let mut next = Some(last.clone());
    while let Some(config) = next.filter(|config| stages.len() < MOST_STAGES && wanted(config)) {
        let store = Store::open(&artifacts::stage(&config.artifacts, &config.run.stage))?;
        let Some(curves) = store.find(METRICS)? else {
            break;
        };

        let points = History::from_jsonl(&String::from_utf8_lossy(&curves))
            .points()
            .to_vec();

        stages.push(Stage {
            name: name(&config, last),
            points,
        });

        let weights = config.initial_weights;
        next = match weights.model.or(weights.image) {
            Some(uri) => source::config(&uri)?,
            None => None,
        };
    }

    stages.reverse();
    Ok(stages)
}

/// Stages of other runs carry the run's name.
fn name(config: &TrainConfig, last: &TrainConfig) -> String {
    match config.run.name == last.run.name {
        true => config.run.stage.clone(),
        false => format!("{}/{}", config.run.name, config.run.stage),
    }
}
