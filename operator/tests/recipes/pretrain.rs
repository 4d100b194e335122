//! Table 8: two stages on about 200 million pairs.

use super::models::{MODELS, Model};

/// What differs from model to model.
pub(crate) struct Row {
    /// Nodes of eight devices.
    nodes: i32,
    /// Passes of the first stage, and pairs in one of its steps.
    align: Option<i32>,
    /// Passes of the second stage, and pairs in one of its steps.
    pretrain: (i32, i32),
    /// What the table does not say, or says otherwise.
    note: &'static str,
}

/// Pairs in a step of the first stage, for all models.
const ALIGN_BATCH: i32 = 32_768;

pub(crate) const ROWS: [Row; MODELS.len()] = [
    Row {
        nodes: 8,
        align: Some(20),
        pretrain: (44, 16_384),
        note: "",
    },
    Row {
        nodes: 16,
        align: Some(44),
        pretrain: (15, 16_384),
        note: "",
    },
    Row {
        nodes: 16,
        align: Some(64),
        pretrain: (7, 4_608),
        note: "",
    },
    Row {
        nodes: 16,
        align: None,
        pretrain: (2, 4_608),
        note: "# Starts from the pretrained ViT-L/14, whose position embeddings are resized. Learning rate and batch size are not published: these are\n\
               # those of the ViT-L/14's second stage.\n",
    },
    Row {
        nodes: 32,
        align: Some(26),
        pretrain: (7, 32_768),
        note: "# The paper has 184 devices, among which 32,768 pairs cannot be divided evenly.\n",
    },
];

pub(crate) fn recipe(model: &Model, row: &Row) -> String {
    let Model {
        architecture,
        file,
        image,
        text,
        ..
    } = model;

    let weights = match row.align {
        Some(_) => format!("{{image: \"{image}\", text: \"{text}\"}}"),
        None => format!("{{model: \"{}\"}}", MODELS[2].pretrained),
    };

    let (epochs, batch) = row.pretrain;
    let align = row.align.map_or_else(String::new, |epochs| {
        stage(
            "align",
            "      freeze: Image\n",
            (epochs, ALIGN_BATCH),
            "1e-4",
        )
    });

    let memory = if model.gradient_checkpointing {
        "      gradientCheckpointing: true\n"
    } else {
        ""
    };

    let pretrain = stage("pretrain", memory, (epochs, batch), "2e-5");
    format!(
        "# Pretraining of {architecture} as in the paper (table 8): texts of at most 50 tokens and two special tokens, random\n\
         # resized crop, flip and AutoAugment. Replace the s3:// URIs by your own.\n\
         {note}\
         apiVersion: cnclip.dev/v1alpha1\n\
         kind: CnClipTraining\n\
         metadata:\n  name: pretrain-{file}\n\
         spec:\n  model:\n    architecture: {architecture}\n    contextLength: 52\n    initialWeights: {weights}\n  \
         datasets:\n    - {{name: pairs, uri: \"s3://data/zh-pairs/\"}}\n    - {{name: valid, uri: \"s3://data/muge/valid/\"}}\n  \
         stages:\n{align}{pretrain}  \
         checkpoint: {{everySteps: 1000, keep: 3}}\n  \
         workers: {{replicas: {nodes}, devices: 8, precision: Bf16}}\n  \
         artifacts: {{uri: \"s3://runs/pretrain-{file}/\", credentials: {{secretName: s3}}}}\n",
        note = row.note,
        nodes = row.nodes,
    )
}

fn stage(name: &str, more: &str, (epochs, batch): (i32, i32), rate: &str) -> String {
    format!(
        "    - name: {name}\n      dataset: pairs\n{more}      epochs: {epochs}\n      globalBatchSize: {batch}\n      \
         learningRate: \"{rate}\"\n      warmupSteps: 5000\n      weightDecay: \"0.001\"\n      augmentation: AutoAugment\n      \
         validation: {{dataset: valid, everySteps: 2000}}\n"
    )
}
