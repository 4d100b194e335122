//! Configurations that people, the operator and hubs write.

use cnclip::config_file::parse_config;
use cnclip::interop::reference_config;
use cnclip_crds::trainer_config::{EvaluateConfig, TrainConfig};
use cnclip_data::store::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn train_config(data: &[u8]) {
    if let Some(config) = parse_and_write::<TrainConfig>(data) {
        if config.problems().is_empty() {
            assert!(config.world.rank_count() > 0);
        }
    }
}

pub(super) fn evaluate_config(data: &[u8]) {
    if let Some(config) = parse_and_write::<EvaluateConfig>(data) {
        let _ = config.problems();
    }
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
pub(super) fn model_config(data: &[u8]) {
    let store = Store::in_memory();
    super::put(&store, reference_config::CONFIG_FILE, data);
    if let Ok(model) = reference_config::read_model_config(&store) {
        assert_eq!(model.validation_error(), None);
    }
}
