#![allow(clippy::unwrap_used)]

use super::*;

fn row(tensor: &str, quantity: Quantity, passes: bool) -> VerifyRow {
    let mut row = VerifyRow::new(tensor, quantity, if passes { 0.0 } else { 1.0 });
    row.tolerance = 0.1;
    row
}

/// Under its own name.
fn unnamed(row: &VerifyRow) -> NamedRow<'_> {
    NamedRow {
        row,
        name: row.tensor.clone(),
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
    let ordered = in_backward_order(rows.iter().map(unnamed).collect());
    let ordered: Vec<&str> = ordered.iter().map(|found| found.name.as_str()).collect();
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
