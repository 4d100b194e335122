//! Configurations that people, the operator and hubs write.

use cnclip::config_file::parse_config;
use cnclip::interop::reference_config;
use cnclip_crds::trainer_config::{EvaluateConfig, TrainConfig};
use cnclip_data::store::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn train_config(data: &[u8]) -> bool {
    let Some(config) = parse_and_write::<TrainConfig>(data) else {
        return false;
    };

    if config.problems().is_empty() {
        assert!(config.world.rank_count() > 0);
    }

    true
}

pub(super) fn evaluate_config(data: &[u8]) -> bool {
    let config = parse_and_write::<EvaluateConfig>(data);
    config.is_some_and(|config| config.problems().is_empty())
}

/// The configuration, which is the same after it was written and read.
fn parse_and_write<C: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    data: &[u8],
) -> Option<C> {
    let config: C = parse_config(std::str::from_utf8(data).ok()?).ok()?;
    let text = serde_json::to_string(&config).expect("a configuration can be written");
    let read: C = parse_config(&text).expect("what is written can be read");
    assert_eq!(read, config);

    Some(config)
}

/// The reference's `config.json` next to published weights.
pub(super) fn model_config(data: &[u8]) -> bool {
    let store = Store::in_memory();
    super::put(&store, reference_config::CONFIG_FILE, data);
    let Ok(model) = reference_config::read_model_config(&store) else {
        return false;
    };

    assert_eq!(model.validation_error(), None);
    true
}
