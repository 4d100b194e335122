//! Which operations of `trainer/compute/src/ops` lead to a tensor that was compared.

/// What is computed between the tensors compared before and this one.
pub(super) struct TensorOperations {
    /// A part of the tensor's name; the first entry that fits counts. See [`super::ModelLayout::table_name`].
    part: &'static str,
    operations: &'static [&'static str],
    /// Of these, the ones that the tensor proves nothing about when it is right: the normalization behind them
    /// hides a wrong scale, or they lead to some tensors of this name alone.
    unproven: &'static [&'static str],
}

impl TensorOperations {
    /// All that may be wrong where the tensor is.
    pub(super) fn suspects(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.operations.iter().copied()
    }

    /// What is right where the tensor is.
    pub(super) fn proven(&self) -> impl Iterator<Item = &'static str> {
        self.suspects().filter(|name| !self.unproven.contains(name))
    }
}

/// The operations of the tensors of one pass.
pub(super) type OperationTable = &'static [TensorOperations];

/// The entry of a tensor.
pub(super) fn find_operations(
    name: &str,
    table: OperationTable,
) -> Option<&'static TensorOperations> {
    table.iter().find(|entry| name.contains(entry.part))
}

/// The place of a tensor's entry in its table.
pub(super) fn table_position(name: &str, table: OperationTable) -> Option<usize> {
    table.iter().position(|entry| name.contains(entry.part))
}

const fn of(part: &'static str, operations: &'static [&'static str]) -> TensorOperations {
    TensorOperations {
        part,
        operations,
        unproven: &[],
    }
}

const fn partly(
    part: &'static str,
    operations: &'static [&'static str],
    unproven: &'static [&'static str],
) -> TensorOperations {
    TensorOperations {
        part,
        operations,
        unproven,
    }
}

/// Activations, features and loss.
pub(super) const FORWARD: OperationTable = &[
    partly(
        "visual.ln_pre",
        &[
            "patchify",
            "position_embedding forward",
            "linear forward",
            "layer_norm forward",
        ],
        &["patchify", "position_embedding forward", "linear forward"],
    ),
    of(
        "visual.transformer.resblocks.last",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "quick_gelu forward",
            "sequences forward",
        ],
    ),
    of(
        "visual.transformer.resblocks.",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "quick_gelu forward",
        ],
    ),
    partly(
        "resnet.bn3",
        &[
            "patchify",
            "conv2d forward",
            "batch_norm forward",
            "average_pool forward",
        ],
        &["patchify", "conv2d forward"],
    ),
    partly(
        "resnet.layer",
        &[
            "linear forward",
            "conv2d forward",
            "batch_norm forward",
            "average_pool forward",
        ],
        &["linear forward", "conv2d forward", "average_pool forward"],
    ),
    partly(
        "bert.embeddings",
        &["embedding forward", "layer_norm forward"],
        &["embedding forward"],
    ),
    of(
        "bert.encoder.layer.last",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "attention forward of texts",
            "gelu forward",
            "sequences forward",
        ],
    ),
    of(
        "bert.encoder.layer.",
        &[
            "linear forward",
            "layer_norm forward",
            "attention forward",
            "attention forward of texts",
            "gelu forward",
        ],
    ),
    partly(
        "resnet_features",
        &[
            "mean_pool_token forward",
            "attention_pool forward",
            "linear forward",
            "l2_normalize forward",
        ],
        &[
            "mean_pool_token forward",
            "attention_pool forward",
            "linear forward",
        ],
    ),
    partly(
        "image_features",
        &[
            "layer_norm forward",
            "linear forward",
            "l2_normalize forward",
        ],
        &["linear forward"],
    ),
    partly(
        "text_features",
        &["linear forward", "l2_normalize forward"],
        &["linear forward"],
    ),
    of("loss", &["contrastive_loss forward"]),
];

/// Gradients, in the order of the backward pass through one block: from its last parameter to its first. What is
/// listed leads from the gradient before to this one, or makes this one of the gradient of an output.
pub(super) const BACKWARD: OperationTable = &[
    of("logit_scale", &["contrastive_loss backward"]),
    of(
        "visual.proj",
        &[
            "contrastive_loss backward",
            "l2_normalize backward",
            "linear weights",
        ],
    ),
    of(
        "text_projection",
        &[
            "contrastive_loss backward",
            "l2_normalize backward",
            "linear weights",
        ],
    ),
    of("visual.ln_post", &["linear inputs", "layer_norm weights"]),
    // A block of the vision transformer. The last one reads all tokens and puts out one, so a gradient of one
    // token is scattered on the way to the block before it.
    of(
        "resblocks.second_last.mlp.c_proj.weight",
        &[
            "sequences backward",
            "layer_norm backward",
            "linear weights",
        ],
    ),
    of(
        "mlp.c_proj.weight",
        &["layer_norm backward", "linear weights"],
    ),
    of(
        "mlp.c_proj.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    of(
        "mlp.c_fc.weight",
        &["linear inputs", "quick_gelu backward", "linear weights"],
    ),
    of(
        "mlp.c_fc.bias",
        &["linear inputs", "quick_gelu backward", "linear column_sums"],
    ),
    of(".ln_2.", &["linear inputs", "layer_norm weights"]),
    of(
        "attn.out_proj.weight",
        &["layer_norm backward", "linear weights"],
    ),
    of(
        "attn.out_proj.bias",
        &["layer_norm backward", "linear column_sums"],
    ),
    of(
        "attn.in_proj_weight",
        &["linear inputs", "attention backward", "linear weights"],
    ),
    of(
        "attn.in_proj_bias",
        &["linear inputs", "attention backward", "linear column_sums"],
    ),
    of(".ln_1.", &["linear inputs", "layer_norm weights"]),
    of(
        "visual.ln_pre",
        &["layer_norm backward", "layer_norm weights"],
    ),
    // A layer of BERT. The norms behind the residual connections hide a wrong scale of their sums in the forward
    // pass, but not in their backward pass.
    of(
        "layer.second_last.output.LayerNorm",
        &["sequences backward", "linear inputs", "layer_norm weights"],
    ),
    of(
        ".output.LayerNorm",
        &["linear inputs", "layer_norm weights"],
    ),
    of(
        ".output.dense.weight",
        &["dropout forward", "layer_norm backward", "linear weights"],
    ),
    of(
        ".output.dense.bias",
        &[
            "dropout forward",
            "layer_norm backward",
            "linear column_sums",
        ],
    ),
    of(
        "intermediate.dense.weight",
        &["linear inputs", "gelu backward", "linear weights"],
    ),
    of(
        "intermediate.dense.bias",
        &["linear inputs", "gelu backward", "linear column_sums"],
    ),
    // The gradient of the values does not pass the softmax.
    partly(
        ".attention.self.value",
        &[
            "linear inputs",
            "attention backward",
            "linear weights",
            "linear column_sums",
        ],
        &["attention backward"],
    ),
    of(
        ".attention.self.",
        &[
            "linear inputs",
            "attention backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    of(
        "bert.embeddings.LayerNorm",
        &["linear inputs", "layer_norm backward", "layer_norm weights"],
    ),
    of(
        "word_embeddings",
        &[
            "embedding forward",
            "layer_norm backward",
            "embedding backward_words",
        ],
    ),
    of(
        "token_type_embeddings",
        &[
            "embedding forward",
            "layer_norm backward",
            "linear column_sums",
        ],
    ),
    of(
        "bert.embeddings.position_embeddings",
        &[
            "embedding forward",
            "layer_norm backward",
            "embedding backward_positions",
        ],
    ),
    // The ResNet.
    of(
        "attnpool.c_proj",
        &[
            "l2_normalize backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    of(
        "attnpool.positional_embedding",
        &["linear inputs", "mean_pool_token backward"],
    ),
    of(
        "attnpool.",
        &[
            "linear inputs",
            "attention_pool backward",
            "linear weights",
            "linear column_sums",
        ],
    ),
    of(
        "resnet.bn",
        &[
            "average_pool backward",
            "conv2d inputs",
            "batch_norm weights",
        ],
    ),
    partly(
        ".bn3.",
        &[
            "residual backward",
            "residual add",
            "average_pool backward",
            "linear inputs",
            "mean_pool_token backward",
            "batch_norm weights",
        ],
        &[
            "residual add",
            "average_pool backward",
            "linear inputs",
            "mean_pool_token backward",
        ],
    ),
    partly(
        ".bn2.",
        &[
            "linear inputs",
            "average_pool backward",
            "batch_norm weights",
        ],
        &["average_pool backward"],
    ),
    of(".bn1.", &["conv2d inputs", "batch_norm weights"]),
    partly(
        "downsample.1",
        &["residual backward", "batch_norm weights"],
        &["residual backward"],
    ),
    of("downsample.0", &["batch_norm backward", "linear weights"]),
    of("resnet.conv", &["batch_norm backward", "conv2d weights"]),
    of(".conv2.weight", &["batch_norm backward", "conv2d weights"]),
    of("resnet.layer", &["batch_norm backward", "linear weights"]),
    // The embedding of the vision transformer.
    of(
        "visual.conv1.weight",
        &["layer_norm backward", "linear weights"],
    ),
    of(
        "visual.positional_embedding",
        &["layer_norm backward", "position_embedding backward"],
    ),
    of(
        "visual.class_embedding",
        &["layer_norm backward", "position_embedding backward"],
    ),
];

/// Running means and variances: the only tensors that show a wrong scale of a convolution, which the
/// normalization takes out of everything else.
pub(super) const RUNNING_STATISTICS: OperationTable = &[
    of(
        "resnet.bn1",
        &["patchify", "conv2d forward", "batch_norm statistics"],
    ),
    of("resnet.bn", &["conv2d forward", "batch_norm statistics"]),
    of(".bn2.", &["conv2d forward", "batch_norm statistics"]),
    partly(
        "",
        &[
            "average_pool forward",
            "linear forward",
            "batch_norm statistics",
        ],
        &["average_pool forward"],
    ),
];

/// What the optimizer adds.
pub(super) const UPDATES: OperationTable = &[of("", &["adamw"])];
