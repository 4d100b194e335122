//! The names and layouts that others give the same tensors, turned into the reference's. Knows no
//! model: what is left over is the loader's to judge.

use super::state_dict_format::StateDictFormat;
use super::stored_tensor::StoredTensor;
use super::tensor_file::StoredTensorMap;

/// Tensors under the reference's names.
pub(super) struct ReferenceTensors {
    pub(super) format: StateDictFormat,
    pub(super) tensors: StoredTensorMap,
    /// What the file calls those that no model of ours has.
    pub(super) ignored: Vec<String>,
}

/// The reference's names for any layout; a data-parallel checkpoint's `module.` is not one.
pub(super) fn to_reference_names(tensors: StoredTensorMap) -> ReferenceTensors {
    let tensors: StoredTensorMap = tensors
        .into_iter()
        .map(|(name, tensor)| {
            (
                // PyTorch's DistributedDataParallel wraps the model in a module of this name.
                name.strip_prefix("module.").unwrap_or(&name).to_owned(),
                tensor,
            )
        })
        .collect();

    let layout = StateDictFormat::from_names(tensors.keys());
    let (out, mut named): (StoredTensorMap, StoredTensorMap) = tensors
        .into_iter()
        .partition(|(name, _)| layout.is_ignored(name));

    // Before renaming: the three names are Hugging Face's, and the fused one is the reference's already.
    fuse_qkv(&mut named);
    let tensors = named
        .into_iter()
        .map(|(name, tensor)| rename_tensor(layout, name, tensor))
        .collect();

    ReferenceTensors {
        format: layout,
        tensors,
        ignored: out.into_keys().collect(),
    }
}

/// Query, key and value of a vision block: three tensors become one.
fn fuse_qkv(tensors: &mut StoredTensorMap) {
    const QUERY: &str = ".self_attn.q_proj.";
    let queries: Vec<String> = tensors
        .keys()
        .filter(|name| name.contains(QUERY))
        .cloned()
        .collect();

    for query in queries {
        // PyTorch's `nn.MultiheadAttention` stacks its `in_proj_weight` in this order.
        let names =
            ["q", "k", "v"].map(|which| query.replace(QUERY, &format!(".self_attn.{which}_proj.")));
        let parts: Option<Vec<StoredTensor>> = names
            .iter()
            .map(|name| tensors.get(name).cloned())
            .collect();

        if let Some(stacked) = parts.and_then(|parts| StoredTensor::concat_rows(&parts)) {
            tensors.retain(|name, _| !names.contains(name));
            tensors.insert(query.replace(QUERY, ".attn.in_proj_"), stacked);
        }
    }
}

/// Fragments of Hugging Face's names, and the reference's, in the order of replacement.
const NAME_REPLACEMENTS: [(&str, &str); 14] = [
    ("text_model.", "bert."),
    (
        "vision_model.encoder.layers.",
        "visual.transformer.resblocks.",
    ),
    (
        "vision_model.embeddings.class_embedding",
        "visual.class_embedding",
    ),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    (
        "vision_model.embeddings.position_embedding.weight",
        "visual.positional_embedding",
    ),
    // The spelling is Hugging Face's, and that of all files it published.
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    // BERTs that were converted from TensorFlow keep its names.
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
];

fn rename_tensor(
    layout: StateDictFormat,
    name: String,
    tensor: StoredTensor,
) -> (String, StoredTensor) {
    match name.as_str() {
        // `nn.Linear` holds its weight as [out, in]; the reference multiplies by [in, out].
        "text_projection.weight" => ("text_projection".into(), tensor.transpose()),
        "visual_projection.weight" => ("visual.proj".into(), tensor.transpose()),
        bare if layout == StateDictFormat::Bert
            && ["embeddings.", "encoder."]
                .iter()
                .any(|start| bare.starts_with(start)) =>
        {
            rename_tensor(layout, format!("bert.{name}"), tensor)
        }
        _ => {
            let name = NAME_REPLACEMENTS
                .iter()
                .fold(name, |name, (from, to)| name.replace(from, to));
            (name, tensor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, tensor};
    use super::super::{Tensor, TensorMap};

    fn to_reference(tensors: &[(&str, Tensor)]) -> TensorMap {
        file(tensors).to_tensors().unwrap()
    }

    #[test]
    fn names_of_every_layout_become_the_references() {
        let table = [
            ("module.visual.ln_pre.bias", Some("visual.ln_pre.bias")),
            ("logit_scale", Some("logit_scale")),
            ("bert.pooler.dense.weight", None),
            ("text_model.embeddings.position_ids", None),
            (
                "text_model.encoder.layer.3.output.dense.bias",
                Some("bert.encoder.layer.3.output.dense.bias"),
            ),
            (
                "bert.embeddings.LayerNorm.gamma",
                Some("bert.embeddings.LayerNorm.weight"),
            ),
            (
                "vision_model.pre_layrnorm.weight",
                Some("visual.ln_pre.weight"),
            ),
            (
                "vision_model.encoder.layers.11.mlp.fc2.bias",
                Some("visual.transformer.resblocks.11.mlp.c_proj.bias"),
            ),
            (
                "vision_model.embeddings.position_embedding.weight",
                Some("visual.positional_embedding"),
            ),
        ];

        for (name, right) in table {
            let found = to_reference(&[(name, tensor(&[2], 0.0))]);
            assert_eq!(
                found.keys().map(String::as_str).collect::<Vec<_>>(),
                right.into_iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn query_key_and_value_of_hugging_face_are_stacked_in_this_order() {
        let name =
            |which: &str| format!("vision_model.encoder.layers.0.self_attn.{which}_proj.bias");
        let names = ["k", "q", "v"].map(name);
        let parts = [10.0, 0.0, 20.0].map(|first| tensor(&[2], first));
        let found = to_reference(&[0, 1, 2].map(|at| (names[at].as_str(), parts[at].clone())));
        let right = Tensor {
            shape: vec![6],
            values: vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0],
        };

        assert_eq!(
            found,
            TensorMap::from([(
                "visual.transformer.resblocks.0.attn.in_proj_bias".into(),
                right
            )])
        );
    }

    #[test]
    fn projections_of_hugging_face_are_transposed() {
        let found = to_reference(&[("visual_projection.weight", tensor(&[2, 3], 0.0))]);
        let right = Tensor {
            shape: vec![3, 2],
            values: vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0],
        };

        assert_eq!(found, TensorMap::from([("visual.proj".into(), right)]));
    }
}
