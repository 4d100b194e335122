//! One evaluation with a task for each data set that the paper classifies by names.

use cnclip_crds::tasks::DatasetPreset;

/// The manifest.
pub(crate) fn recipe() -> String {
    let mut yaml = HEAD.to_owned();
    for preset in DatasetPreset::ALL {
        let name = preset.name();
        let task = format!("{{dataset: s3://data/elevater/{name}/, preset: {name}}}");
        yaml += &format!("    - {{name: {name}, zeroShot: {task}}}\n");
    }

    yaml
}

/// A row of the table in docs/zero-shot.md.
pub(crate) fn row(preset: DatasetPreset) -> String {
    let custom = preset.defaults();
    let metric = serde_json::to_value(custom.primary_metric).unwrap();
    let metric = metric.as_str().unwrap();
    let set = custom.templates;

    format!(
        "| {} | {} | {metric} | {set:?} |\n",
        preset.name(),
        custom.classes
    )
}

const HEAD: &str = "\
# ELEVATER's 20 data sets and ImageNet, classified by the Chinese names of their classes. docs/zero-shot.md describes
# their layout under s3://data/elevater/; remove the tasks that you do not need. `templates` in a task selects other prompts.
apiVersion: cnclip.dev/v1alpha1
kind: CnClipEvaluation
metadata: {name: zero-shot}
spec:
  checkpoint: {uri: hf://OFA-Sys/chinese-clip-vit-base-patch16}
  artifacts: {uri: s3://runs/zero-shot/, credentials: {secretName: s3}}
  tasks:
";
