//! ConfigMap with the trainer configuration of one attempt. Pure.

use std::path::Path;

use cnclip_crds::names;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::resolved_run::TrainerConfig;

/// Builds the ConfigMap.
pub fn build_config_map(metadata: ObjectMeta, config: &TrainerConfig) -> ConfigMap {
    // Cannot fail: the types have string keys and derived implementations only.
    let json = serde_json::to_string_pretty(config).unwrap_or_default();
    ConfigMap {
        metadata,
        data: Some([(file_name().to_owned(), json)].into()),
        ..ConfigMap::default()
    }
}

/// Key of the configuration, and name of the mounted file.
pub fn file_name() -> &'static str {
    Path::new(names::CONFIG_PATH)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// Mount path of the ConfigMap.
pub fn mount_folder() -> &'static str {
    Path::new(names::CONFIG_PATH)
        .parent()
        .and_then(|folder| folder.to_str())
        .unwrap_or_default()
}
