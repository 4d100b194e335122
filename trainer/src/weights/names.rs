//! The names and layouts that others give the same tensors, turned into the reference's. Knows no
//! model: what is left over is the loader's to judge.

use super::file::Names;
use super::layout::Layout;
use super::stored::Stored;

/// Tensors under the reference's names.
pub(super) struct Named {
    pub(super) layout: Layout,
    pub(super) tensors: Names,
    /// What the file calls those that no model of ours has.
    pub(super) left_out: Vec<String>,
}

/// The reference's names for any layout; a data-parallel checkpoint's `module.` is not one.
pub(super) fn to_reference(tensors: Names) -> Named {
    let tensors: Names = tensors
        .into_iter()
        .map(|(name, tensor)| {
            (
                name.strip_prefix("module.").unwrap_or(&name).to_owned(),
                tensor,
            )
        })
        .collect();

    let layout = Layout::of(tensors.keys());
    let (out, mut named): (Names, Names) = tensors
        .into_iter()
        .partition(|(name, _)| layout.leaves_out(name));

    join_attention(&mut named);
    let tensors = named
        .into_iter()
        .map(|(name, tensor)| rename(layout, name, tensor))
        .collect();

    Named {
        layout,
        tensors,
        left_out: out.into_keys().collect(),
    }
}

/// Query, key and value of a vision block: three tensors become one.
fn join_attention(tensors: &mut Names) {
    const QUERY: &str = ".self_attn.q_proj.";
    let queries: Vec<String> = tensors
        .keys()
        .filter(|name| name.contains(QUERY))
        .cloned()
        .collect();

    for query in queries {
        let names =
            ["q", "k", "v"].map(|which| query.replace(QUERY, &format!(".self_attn.{which}_proj.")));
        let parts: Option<Vec<Stored>> = names
            .iter()
            .map(|name| tensors.get(name).cloned())
            .collect();

        if let Some(stacked) = parts.and_then(|parts| Stored::stack(&parts)) {
            tensors.retain(|name, _| !names.contains(name));
            tensors.insert(query.replace(QUERY, ".attn.in_proj_"), stacked);
        }
    }
}

/// Fragments of Hugging Face's names, and the reference's, in the order of replacement.
const FRAGMENTS: [(&str, &str); 14] = [
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
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
];

fn rename(layout: Layout, name: String, tensor: Stored) -> (String, Stored) {
    match name.as_str() {
        "text_projection.weight" => ("text_projection".into(), tensor.transpose()),
        "visual_projection.weight" => ("visual.proj".into(), tensor.transpose()),
        bare if layout == Layout::Bert
            && ["embeddings.", "encoder."]
                .iter()
                .any(|start| bare.starts_with(start)) =>
        {
            rename(layout, format!("bert.{name}"), tensor)
        }
        _ => {
            let name = FRAGMENTS
                .iter()
                .fold(name, |name, (from, to)| name.replace(from, to));
            (name, tensor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, tensor};
    use super::super::{Tensor, Tensors};

    fn to_reference(tensors: &[(&str, Tensor)]) -> Tensors {
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
            Tensors::from([(
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

        assert_eq!(found, Tensors::from([("visual.proj".into(), right)]));
    }
}
