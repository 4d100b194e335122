//! Manifests of the CustomResourceDefinitions, as `cnclip-operator crds` prints them.

use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt};

/// File name and YAML of each definition.
///
/// # Errors
/// If one cannot be written as YAML.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_norway::Error> {
    [CnClipTraining::crd(), CnClipEvaluation::crd()]
        .iter()
        .map(crd_file)
        .collect()
}

fn crd_file(
    definition: &CustomResourceDefinition,
) -> Result<(String, String), serde_norway::Error> {
    let plural = &definition.spec.names.plural;
    let group = &definition.spec.group;
    debug_assert_eq!(definition.name_any(), format!("{plural}.{group}"));
    Ok((
        format!("{group}_{plural}.yaml"),
        serde_norway::to_string(definition)?,
    ))
}
