//! Names the operation that is likely wrong: errors spread to everything computed later, so the first
//! tensor that deviates counts, less the operations that other tensors prove right.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::report::{Quantity, VerifyRow};

/// Where a computation first went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// The first tensor, in the order of the computation.
    pub tensor: String,
    /// What of it was compared.
    pub quantity: Quantity,
    /// The operations that are likely wrong; each is a folder of `trainer/compute/src/ops` and a pass.
    pub operations: Vec<String>,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tensor,
            quantity,
            operations,
        } = self;

        let quantity = quantity.label();
        let operations = operations.join(", ");
        write!(
            f,
            "The first is the {quantity} {tensor}; likely wrong: {operations}"
        )
    }
}

/// What is applied between the tensors compared before and this one: the end or middle of a tensor's name,
/// and operations. The first that fits counts.
type OperationTable = &'static [(&'static str, &'static [&'static str])];

const FORWARD: OperationTable = &[
    (
        "visual.ln_pre",
        &[
            "patchify",
            "position_embedding forward",
            "linear forward",
            "layer_norm forward",
        ],
    ),
    (
        "visual.transformer.resblocks.",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "quick_gelu forward",
            "sequences forward",
        ],
    ),
    (
        "visual.bn3",
        &[
            "patchify",
            "conv2d forward",
            "batch_norm forward",
            "average_pool forward",
        ],
    ),
    (
        "visual.layer",
        &[
            "linear forward",
            "conv2d forward",
            "batch_norm forward",
            "average_pool forward",
        ],
    ),
    (
        "bert.embeddings",
        &["embedding forward", "layer_norm forward"],
    ),
    (
        "bert.encoder.layer.",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "gelu forward",
            "sequences forward",
        ],
    ),
    (
        "image_features",
        &[
            "layer_norm forward",
            "mean_pool_token forward",
            "attention_pool forward",
            "linear forward",
            "l2_normalize forward",
        ],
    ),
    ("text_features", &["linear forward", "l2_normalize forward"]),
    ("loss", &["contrastive_loss forward"]),
];

/// In the order of the backward pass through one block: from its last parameter to its first. What is
/// listed leads from the gradient before to this one, or makes this one of the gradient of an output.
const BACKWARD: OperationTable = &[
    ("logit_scale", &["contrastive_loss backward"]),
    (
        "visual.proj",
        &[
            "contrastive_loss backward",
            "l2_normalize backward",
            "linear weights",
        ],
    ),
    (
        "text_projection",
        &[
            "contrastive_loss backward",
            "l2_normalize backward",
            "linear weights",
        ],
    ),
    ("visual.ln_post", &["linear inputs", "layer_norm weights"]),
    // A block of the vision transformer.
    (
        "mlp.c_proj.weight",
        &["layer_norm backward", "linear weights"],
    ),
    (
        "mlp.c_proj.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    (
        "mlp.c_fc.weight",
        &["linear inputs", "quick_gelu backward", "linear weights"],
    ),
    (
        "mlp.c_fc.bias",
        &["linear inputs", "quick_gelu backward", "linear column_sums"],
    ),
    (".ln_2.", &["linear inputs", "layer_norm weights"]),
    (
        "attn.out_proj.weight",
        &["layer_norm backward", "linear weights"],
    ),
    (
        "attn.out_proj.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    (
        "attn.in_proj_weight",
        &["linear inputs", "attention backward", "linear weights"],
    ),
    (
        "attn.in_proj_bias",
        &["linear inputs", "attention backward", "linear column_sums"],
    ),
    (".ln_1.", &["linear inputs", "layer_norm weights"]),
    (
        "visual.ln_pre",
        &[
            "layer_norm backward",
            "layer_norm weights",
            "sequences backward",
        ],
    ),
    // A layer of BERT.
    (
        ".output.LayerNorm",
        &["linear inputs", "layer_norm weights"],
    ),
    (
        ".attention.output.dense.weight",
        &["layer_norm backward", "linear weights"],
    ),
    (
        ".attention.output.dense.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    (
        ".output.dense.weight",
        &["layer_norm backward", "linear weights"],
    ),
    (
        ".output.dense.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    (
        "intermediate.dense.weight",
        &["linear inputs", "gelu backward", "linear weights"],
    ),
    (
        "intermediate.dense.bias",
        &["linear inputs", "gelu backward", "linear column_sums"],
    ),
    (
        ".attention.self.",
        &[
            "linear inputs",
            "attention backward",
            "sequences backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    (
        "bert.embeddings.LayerNorm",
        &["linear inputs", "layer_norm backward", "layer_norm weights"],
    ),
    (
        "word_embeddings",
        &["layer_norm backward", "embedding backward_words"],
    ),
    (
        "position_embeddings",
        &["layer_norm backward", "embedding backward_positions"],
    ),
    (
        "token_type_embeddings",
        &["layer_norm backward", "linear column_sums"],
    ),
    // The ResNet.
    (
        "attnpool.c_proj",
        &[
            "l2_normalize backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    (
        "attnpool.positional_embedding",
        &["linear inputs", "mean_pool_token backward"],
    ),
    (
        "attnpool.",
        &[
            "linear inputs",
            "attention_pool backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    (
        ".bn",
        &[
            "mean_pool_token backward",
            "residual backward",
            "average_pool backward",
            "conv2d inputs",
            "linear inputs",
            "batch_norm weights",
        ],
    ),
    ("conv2.weight", &["batch_norm backward", "conv2d weights"]),
    ("downsample.1", &["residual backward", "batch_norm weights"]),
    ("downsample.0", &["batch_norm backward", "linear weights"]),
    (
        "visual.conv1.weight",
        &["linear weights", "conv2d weights", "batch_norm backward"],
    ),
    (
        "conv",
        &["batch_norm backward", "linear weights", "conv2d weights"],
    ),
    (
        "positional_embedding",
        &["layer_norm backward", "position_embedding backward"],
    ),
    (
        "class_embedding",
        &["layer_norm backward", "position_embedding backward"],
    ),
];

/// Parts of a block in forward order, where [`BACKWARD`] does not list them in backward order: the first
/// that fits counts.
const BLOCK_ORDER: [&str; 12] = [
    // BERT: the feed-forward part, then attention.
    ".attention.self.",
    ".attention.output.dense",
    ".attention.output.LayerNorm",
    "intermediate.dense",
    ".output.dense",
    ".output.LayerNorm",
    // A bottleneck of the ResNet.
    "conv1.weight",
    ".bn1.",
    "conv2.weight",
    ".bn2.",
    "conv3.weight",
    ".bn3.",
];

/// The first deviation of rows in the order of the parameters, if there is one.
pub(super) fn find_first_deviation(rows: &[VerifyRow]) -> Option<Deviation> {
    let of = |quantities: &[Quantity]| -> Vec<&VerifyRow> {
        let chosen = rows.iter().filter(|row| quantities.contains(&row.quantity));
        chosen.collect()
    };

    let forward = of(&[Quantity::Activation, Quantity::Feature, Quantity::Loss]);
    let backward = in_backward_order(of(&[Quantity::Gradient]));
    // A wrong activation makes gradients wrong too, but not the reverse: forward comes first.
    find_in_pass(&forward, FORWARD)
        .or_else(|| find_in_pass(&backward, BACKWARD))
        .or_else(|| find_in_pass(&of(&[Quantity::RunningStatistic]), RUNNING_STATISTICS))
        .or_else(|| find_in_pass(&of(&[Quantity::Update]), UPDATES))
}

const RUNNING_STATISTICS: OperationTable = &[("", &["batch_norm statistics"])];
const UPDATES: OperationTable = &[("", &["adamw"])];

/// The first row of a pass that fails, and its operations without those that other rows prove right.
fn find_in_pass(rows: &[&VerifyRow], table: OperationTable) -> Option<Deviation> {
    let first = rows.iter().find(|row| !row.passes())?;
    let proven: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.passes())
        .flat_map(|row| operations_of(&row.tensor, table))
        .copied()
        .collect();

    let unproven = |row: &VerifyRow| -> BTreeSet<&str> {
        let operations = operations_of(&row.tensor, table).iter().copied();
        operations.filter(|name| !proven.contains(name)).collect()
    };

    let mut suspects = unproven(first);
    // Where both towers fail, an operation that both use is likelier than two that broke at once.
    let is_text = |row: &VerifyRow| row.tensor.contains("text") || row.tensor.starts_with("bert.");
    let mut others = rows.iter().filter(|row| is_text(row) != is_text(first));
    if let Some(other) = others.find(|row| !row.passes()) {
        let shared: BTreeSet<&str> = suspects.intersection(&unproven(other)).copied().collect();
        if !shared.is_empty() {
            suspects = shared;
        }
    }

    // What breaks for some shapes alone is proven right by others.
    if suspects.is_empty() {
        suspects = operations_of(&first.tensor, table)
            .iter()
            .copied()
            .collect();
    }

    Some(Deviation {
        tensor: first.tensor.clone(),
        quantity: first.quantity,
        operations: suspects.into_iter().map(str::to_owned).collect(),
    })
}

fn operations_of(tensor: &str, table: OperationTable) -> &'static [&'static str] {
    let found = table.iter().find(|(part, _)| tensor.contains(part));
    found.map_or(&[], |(_, operations)| operations)
}

/// Gradients from the loss to the inputs: block by block backwards, and within a block as its backward
/// pass computes them.
fn in_backward_order(rows: Vec<&VerifyRow>) -> Vec<&VerifyRow> {
    let mut block_numbers = HashMap::new();
    let mut keyed = Vec::new();
    for row in rows {
        let next = block_numbers.len();
        // Parameters come in forward order, so first appearance numbers the blocks.
        let block = *block_numbers.entry(block_of(&row.tensor)).or_insert(next);
        keyed.push((Reverse(block), rank_in_block(&row.tensor), row));
    }

    keyed.sort_by_key(|&(block, rank, _)| (block, rank));
    keyed.into_iter().map(|(_, _, row)| row).collect()
}

/// The part of a name up to the number of its block; of other parameters the whole.
fn block_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    match parts.iter().position(is_number) {
        Some(number) => parts[..=number].join("."),
        None => name.to_owned(),
    }
}

fn rank_in_block(name: &str) -> usize {
    let explicit = BLOCK_ORDER.iter().position(|part| name.contains(part));
    let listed = || BACKWARD.iter().position(|(part, _)| name.contains(part));
    match explicit {
        Some(place) => BLOCK_ORDER.len() - place,
        None => BLOCK_ORDER.len() + listed().unwrap_or(BACKWARD.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tensor: &str, quantity: Quantity, passes: bool) -> VerifyRow {
        VerifyRow {
            tensor: tensor.to_owned(),
            quantity,
            relative_error: if passes { 0.0 } else { 1.0 },
            tolerance: 0.1,
        }
    }

    #[test]
    fn nothing_deviates_where_all_pass() {
        let rows = [row("loss", Quantity::Loss, true)];
        assert_eq!(find_first_deviation(&rows), None);
    }

    #[test]
    fn what_another_block_proves_right_is_not_named() {
        let rows = [
            row("visual.ln_pre", Quantity::Activation, true),
            row(
                "visual.transformer.resblocks.0",
                Quantity::Activation,
                false,
            ),
            row("bert.embeddings", Quantity::Activation, true),
            row("bert.encoder.layer.0", Quantity::Activation, true),
            row("loss", Quantity::Loss, false),
        ];

        let found = find_first_deviation(&rows).unwrap();
        assert_eq!(found.tensor, "visual.transformer.resblocks.0");
        assert_eq!(found.operations, ["quick_gelu forward"]);
    }

    #[test]
    fn an_operation_that_both_towers_use_is_named_where_both_fail() {
        let rows = [
            row("visual.ln_pre", Quantity::Activation, false),
            row("bert.embeddings", Quantity::Activation, false),
        ];

        let found = find_first_deviation(&rows).unwrap();
        assert_eq!(found.operations, ["layer_norm forward"]);
    }

    #[test]
    fn gradients_are_ordered_from_the_loss_to_the_inputs() {
        let names = [
            "bert.embeddings.LayerNorm.weight",
            "bert.encoder.layer.0.attention.self.query.weight",
            "bert.encoder.layer.0.attention.output.dense.weight",
            "bert.encoder.layer.0.attention.output.LayerNorm.weight",
            "bert.encoder.layer.0.intermediate.dense.weight",
            "bert.encoder.layer.0.output.dense.weight",
            "bert.encoder.layer.0.output.LayerNorm.weight",
            "bert.encoder.layer.1.output.dense.weight",
            "text_projection",
            "logit_scale",
        ];

        let rows: Vec<_> = names.map(|name| row(name, Quantity::Gradient, true)).into();
        let ordered = in_backward_order(rows.iter().collect());
        let ordered: Vec<&str> = ordered.iter().map(|row| row.tensor.as_str()).collect();
        let expected: Vec<&str> = names.iter().rev().copied().collect();
        assert_eq!(ordered, expected);
    }

    #[test]
    fn adamw_is_named_where_its_updates_alone_fail() {
        let rows = [
            row("logit_scale", Quantity::Gradient, true),
            row("logit_scale", Quantity::Update, false),
        ];

        let found = find_first_deviation(&rows).unwrap();
        assert_eq!(found.operations, ["adamw"]);
    }
}
