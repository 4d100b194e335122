//! Names the operation that is likely wrong: errors spread to everything computed later, so the first
//! tensor that deviates counts, less the operations that other tensors prove right.

mod operations;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::report::{Quantity, VerifyRow};
use operations::{
    BACKWARD, FORWARD, OperationTable, RUNNING_STATISTICS, UPDATES, find_operations, table_position,
};

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

/// Of its tolerance: a tensor with less is right, and proves operations right.
const PROVING_SHARE: f64 = 0.1;

/// Of its tolerance: a tensor with more is suspicious where others are out of tolerance. An error is often larger
/// behind the block that makes it than in its output.
const SUSPICIOUS_SHARE: f64 = 0.3;

/// A row, and its tensor as the tables of operations name it.
struct NamedRow<'a> {
    row: &'a VerifyRow,
    name: String,
}

impl NamedRow<'_> {
    fn is_suspicious(&self) -> bool {
        self.row.relative_error > SUSPICIOUS_SHARE * self.row.tolerance
    }

    fn is_proving(&self) -> bool {
        self.row.relative_error <= PROVING_SHARE * self.row.tolerance
    }

    fn is_of_texts(&self) -> bool {
        self.name.contains("text") || self.name.starts_with("bert.")
    }
}

/// The first deviation of rows in the order of the parameters, if there is one.
pub(super) fn find_first_deviation(rows: &[VerifyRow]) -> Option<Deviation> {
    let model = ModelLayout::of_rows(rows);
    let of = |quantities: &[Quantity]| -> Vec<NamedRow<'_>> {
        let chosen = rows.iter().filter(|row| quantities.contains(&row.quantity));
        let named = |row| NamedRow {
            row,
            name: model.table_name(&row.tensor),
        };

        chosen.map(named).collect()
    };

    let forward = of(&[Quantity::Activation, Quantity::Feature, Quantity::Loss]);
    let backward = in_backward_order(of(&[Quantity::Gradient]));
    // A wrong activation makes gradients wrong too, but not the reverse: forward comes first.
    find_in_pass(&forward, FORWARD)
        .or_else(|| find_in_pass(&backward, BACKWARD))
        .or_else(|| find_in_pass(&of(&[Quantity::RunningStatistic]), RUNNING_STATISTICS))
        .or_else(|| find_in_pass(&of(&[Quantity::Update]), UPDATES))
}

/// What the names of a model's tensors do not say: which kind its image tower is, and which blocks are last.
struct ModelLayout {
    is_resnet: bool,
    blocks_of_images: usize,
    blocks_of_texts: usize,
}

const IMAGE_BLOCKS: &str = "visual.transformer.resblocks.";
const TEXT_BLOCKS: &str = "bert.encoder.layer.";

impl ModelLayout {
    fn of_rows(rows: &[VerifyRow]) -> Self {
        let is_resnet = |row: &VerifyRow| row.tensor.starts_with("visual.bn");
        let block_count = |prefix: &str| {
            let numbers = rows
                .iter()
                .filter_map(|row| block_number(&row.tensor, prefix));
            numbers.max().map_or(0, |last| last + 1)
        };

        Self {
            is_resnet: rows.iter().any(is_resnet),
            blocks_of_images: block_count(IMAGE_BLOCKS),
            blocks_of_texts: block_count(TEXT_BLOCKS),
        }
    }

    /// A tensor's name as the tables have it: `resnet.` for the image tower where it is one, and `last` and
    /// `second_last` in place of the numbers of those blocks.
    fn table_name(&self, tensor: &str) -> String {
        let towers = [
            (IMAGE_BLOCKS, self.blocks_of_images),
            (TEXT_BLOCKS, self.blocks_of_texts),
        ];

        for (prefix, count) in towers {
            let Some(number) = block_number(tensor, prefix) else {
                continue;
            };

            let rest = &tensor[prefix.len() + number.to_string().len()..];
            return match count - number {
                1 => format!("{prefix}last{rest}"),
                2 => format!("{prefix}second_last{rest}"),
                _ => tensor.to_owned(),
            };
        }

        match tensor.strip_prefix("visual.") {
            Some(rest) if self.is_resnet => format!("resnet.{rest}"),
            None if self.is_resnet && tensor == "image_features" => "resnet_features".to_owned(),
            _ => tensor.to_owned(),
        }
    }
}

/// The number behind a prefix.
fn block_number(tensor: &str, prefix: &str) -> Option<usize> {
    let number = tensor.strip_prefix(prefix)?.split('.').next()?;
    number.parse().ok()
}

/// The first suspicious row of a pass in which one is out of tolerance, and its operations without those that
/// other rows prove right.
fn find_in_pass(rows: &[NamedRow<'_>], table: OperationTable) -> Option<Deviation> {
    let failed = |found: &&NamedRow<'_>| !found.row.passes();
    rows.iter().find(failed)?;
    let first = rows.iter().find(|found| found.is_suspicious())?;

    let proven: BTreeSet<&str> = rows
        .iter()
        .filter(|other| other.is_proving())
        .filter_map(|other| find_operations(&other.name, table))
        .flat_map(|entry| entry.proven())
        .collect();

    let all_suspects = |found: &NamedRow<'_>| -> BTreeSet<&str> {
        let entry = find_operations(&found.name, table).into_iter();
        entry.flat_map(|entry| entry.suspects()).collect()
    };

    let unproven = |found: &NamedRow<'_>| &all_suspects(found) - &proven;
    let mut suspects = unproven(first);

    // Where both towers fail, an operation that both use is likelier than two that broke at once.
    let other_tower = |other: &&NamedRow<'_>| other.is_of_texts() != first.is_of_texts();
    let mut others = rows.iter().filter(other_tower);
    if let Some(other) = others.find(|other| !other.row.passes()) {
        let shared = &suspects & &unproven(other);
        if !shared.is_empty() {
            suspects = shared;
        }
    }

    // What breaks for some shapes alone is proven right by others.
    if suspects.is_empty() {
        suspects = all_suspects(first);
    }

    Some(Deviation {
        tensor: first.row.tensor.clone(),
        quantity: first.row.quantity,
        operations: suspects.into_iter().map(str::to_owned).collect(),
    })
}

/// Gradients from the loss to the inputs: block by block backwards, and within a block as its backward
/// pass computes them.
fn in_backward_order(rows: Vec<NamedRow<'_>>) -> Vec<NamedRow<'_>> {
    let mut block_numbers = HashMap::new();
    let mut keyed = Vec::new();
    for found in rows {
        let next = block_numbers.len();
        // Parameters come in forward order, so first appearance numbers the blocks.
        let block = *block_numbers
            .entry(block_of(&found.row.tensor))
            .or_insert(next);
        keyed.push((Reverse(block), rank_in_block(&found.name), found));
    }

    keyed.sort_by_key(|&(block, rank, _)| (block, rank));
    keyed.into_iter().map(|(_, _, found)| found).collect()
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
    let listed = || table_position(name, BACKWARD);
    match explicit {
        Some(place) => BLOCK_ORDER.len() - place,
        None => BLOCK_ORDER.len() + listed().unwrap_or(BACKWARD.len()),
    }
}
