//! Table 9: fine-tuning on the three retrieval data sets.

use super::models::{MODELS, Model};

/// One data set, and what the table has for each model.
pub(crate) struct DataSet {
    pub(crate) folder: &'static str,
    title: &'static str,
    pairs: i32,
    /// Whether a pass is counted as the reference counts it, its last batch filled up with pairs from the
    /// beginning: where batches are few, that one matters.
    filled_up: bool,
    rows: [Row; MODELS.len()],
    /// What the table does not say.
    note: &'static str,
}

/// Pairs in a step, peak rate, passes, steps of warm-up.
struct Row(i32, &'static str, i32, i32);

pub(crate) const DATA_SETS: [DataSet; 3] = [
    DataSet {
        folder: "muge",
        title: "MUGE",
        pairs: 250_314,
        filled_up: false,
        rows: [
            Row(24_576, "5e-5", 60, 100),
            Row(12_800, "2e-5", 20, 40),
            Row(4_096, "3e-5", 20, 100),
            Row(8_192, "2e-5", 20, 100),
            Row(20_480, "2e-5", 20, 20),
        ],
        note: "",
    },
    DataSet {
        folder: "flickr30k-cn",
        title: "Flickr30K-CN",
        pairs: 148_915,
        filled_up: false,
        rows: [
            Row(24_576, "6e-5", 30, 20),
            Row(7_680, "5e-5", 16, 20),
            Row(4_096, "2e-5", 16, 60),
            Row(8_192, "2e-5", 18, 20),
            Row(4_096, "6e-6", 18, 6),
        ],
        note: "",
    },
    DataSet {
        folder: "coco-cn",
        title: "COCO-CN",
        pairs: 20_065,
        filled_up: true,
        rows: [
            Row(24_576, "5e-5", 40, 6),
            Row(12_800, "5e-5", 30, 6),
            Row(4_096, "6e-5", 18, 9),
            Row(8_192, "4e-5", 18, 2),
            Row(5_120, "2e-5", 18, 10),
        ],
        note: "# The reference counts an epoch with its last batch filled up, so the length is given in steps.\n",
    },
];

/// Nodes of eight devices.
const NODES: i32 = 4;

pub(crate) fn recipe(model: &Model, data: &DataSet, at: usize) -> String {
    let DataSet {
        folder,
        title,
        pairs,
        note,
        ..
    } = data;

    let Row(published, rate, epochs, warmup) = data.rows[at];
    let batch = fitting(published, *pairs);
    let (length, pass) = match data.filled_up {
        true => {
            let pass = (pairs + published - 1) / published;
            (format!("steps: {}", epochs * pass), pass)
        }
        false => (format!("epochs: {epochs}"), pairs / published),
    };

    let memory = if model.gradient_checkpointing {
        "      gradientCheckpointing: true\n"
    } else {
        ""
    };

    let small = if batch < published {
        "# The paper's batch of 24,576 is larger than the data set: the reference repeats some pairs, this project does not.\n"
    } else {
        ""
    };

    let Model {
        architecture,
        file,
        pretrained,
        ..
    } = model;

    format!(
        "# Fine-tuning of {architecture} on {title} as in the paper (table 9), validated after every epoch over its\n\
         # {pairs} pairs. Replace the s3:// URIs by your own.\n\
         {note}{small}\
         apiVersion: cnclip.dev/v1alpha1\n\
         kind: CnClipTraining\n\
         metadata:\n  name: {folder}-{file}\n\
         spec:\n  model:\n    architecture: {architecture}\n    contextLength: 52\n    initialWeights: {{model: \"{pretrained}\"}}\n  \
         datasets:\n    - {{name: train, uri: \"s3://data/{folder}/train/\"}}\n    - {{name: valid, uri: \"s3://data/{folder}/valid/\"}}\n  \
         stages:\n    - name: finetune\n      dataset: train\n{memory}      {length}\n      globalBatchSize: {batch}\n      \
         learningRate: \"{rate}\"\n      warmupSteps: {warmup}\n      weightDecay: \"0.001\"\n      augmentation: AutoAugment\n      \
         validation: {{dataset: valid, everySteps: {pass}}}\n  \
         checkpoint: {{everySteps: {pass}, keep: 2}}\n  \
         workers: {{replicas: {NODES}, devices: 8, precision: Bf16}}\n  \
         artifacts: {{uri: \"s3://runs/{folder}-{file}/\", credentials: {{secretName: s3}}}}\n"
    )
}

/// A batch that the data set can fill and the devices can share.
fn fitting(batch: i32, pairs: i32) -> i32 {
    batch.min(pairs / (8 * NODES) * (8 * NODES))
}
