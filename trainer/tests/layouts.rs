//! One model in every layout that weights are published in.
#![cfg(test)]

use std::path::{Path, PathBuf};

use cnclip::model_resolver::{self, ResolvedWeights};
use cnclip::weights::{
    ModelPart, StateDictFormat, TensorMap, Weights, load_weights, summarize_names,
};
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_data::store::Store;
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/layouts")
}

fn find(path: &Path) -> ResolvedWeights {
    model_resolver::resolve_weights(path.to_str().unwrap()).unwrap()
}

fn reference() -> TensorMap {
    find(&folder().join("reference.safetensors"))
        .tensors
        .to_tensors()
        .unwrap()
}

/// What a part of the model is made of.
fn part(part: ModelPart) -> TensorMap {
    let mut tensors = reference();
    tensors.retain(|name, _| match part {
        ModelPart::All => true,
        ModelPart::Image => name.starts_with("visual.") || name == "logit_scale",
        ModelPart::Text => name.starts_with("bert."),
    });

    tensors
}

#[test]
fn every_layout_gives_the_same_numbers_under_the_same_names() {
    let english = "input_resolution, ln_final.* (2), positional_embedding, text_projection, \
                   token_embedding.* (1), transformer.* (12)";
    let without_resolution = english.strip_prefix("input_resolution, ").unwrap();
    let table = [
        (
            "reference.safetensors",
            StateDictFormat::Reference,
            ModelPart::All,
            "",
        ),
        (
            "ofa.pt",
            StateDictFormat::Reference,
            ModelPart::All,
            "bert.* (1)",
        ),
        (
            "before_1_6.pt",
            StateDictFormat::Reference,
            ModelPart::All,
            "",
        ),
        (
            "sharded",
            StateDictFormat::HuggingFace,
            ModelPart::All,
            "text_model.* (1)",
        ),
        (
            "openai.state_dict.pt",
            StateDictFormat::Clip,
            ModelPart::Image,
            without_resolution,
        ),
        (
            "openai.torchscript.pt",
            StateDictFormat::Clip,
            ModelPart::Image,
            english,
        ),
        (
            "clip.safetensors",
            StateDictFormat::HuggingFaceClip,
            ModelPart::Image,
            "text_model.* (1), text_projection.* (1), vision_model.* (1)",
        ),
        (
            "bert.bin",
            StateDictFormat::Bert,
            ModelPart::Text,
            "bert.* (2), cls.* (1)",
        ),
        (
            "bert_bare.safetensors",
            StateDictFormat::Bert,
            ModelPart::Text,
            "pooler.* (1)",
        ),
    ];

    for (file, layout, taken, left_out) in table {
        let found = find(&folder().join(file)).tensors;
        assert_eq!(found.to_tensors().unwrap(), part(taken), "{file}");
        assert_eq!(found.format(), layout, "{file}");
        assert_eq!(summarize_names(found.ignored_names()), left_out, "{file}");
    }
}

#[test]
fn a_shard_that_is_not_there_is_named() {
    let copy = tempfile::tempdir().unwrap();
    for file in [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
    ] {
        std::fs::copy(folder().join("sharded").join(file), copy.path().join(file)).unwrap();
    }

    let error = model_resolver::resolve_weights(copy.path().to_str().unwrap()).unwrap_err();
    let right =
        "pytorch_model.bin.index.json names pytorch_model-00002-of-00002.bin, which is not there";
    assert!(error.to_string().contains(right), "{error}");
    assert_eq!(error.exit_code().exit_code(), 65);
}

#[test]
fn a_file_of_pytorch_that_was_cut_off_or_spoiled_is_an_error() {
    for file in [
        "ofa.pt",
        "before_1_6.pt",
        "openai.torchscript.pt",
        "bert_bare.safetensors",
    ] {
        let bytes = std::fs::read(folder().join(file)).unwrap();
        for kept in (0..bytes.len()).step_by(97) {
            let store = Store::in_memory();
            store.put(file, bytes[..kept].to_vec().into()).unwrap();
            let read = Weights::open(&store, file).and_then(|weights| weights.to_tensors());
            let error = read.expect_err(file).to_string();
            assert!(error.contains(file), "{error}");
        }
        for spoiled in (0..bytes.len()).step_by(31) {
            let mut bytes = bytes.clone();
            bytes[spoiled] ^= 0x55;
            let store = Store::in_memory();
            store.put(file, bytes.into()).unwrap();
            // Nothing proves the numbers; but nothing panics.
            let _ = Weights::open(&store, file).and_then(|weights| weights.to_tensors());
        }
    }
}

/// A file of a model's names and shapes whose numbers nobody wrote.
fn unwritten(folder: &Path, model: &ModelConfig) -> PathBuf {
    let (_, params) = Clip::new(
        model,
        BatchCapacity {
            batch: 1,
            context: 3,
        },
    );

    let mut header = Map::new();
    let mut end = 0;
    for (segment, values) in params.named_tensors() {
        let start = end;
        end += 4 * values.len();
        let entry = json!({ "dtype": "F32", "shape": segment.shape, "data_offsets": [start, end] });
        header.insert(segment.name.clone(), entry);
    }

    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let path = folder.join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();

    file.set_len((bytes.len() + end) as u64).unwrap();
    path
}

#[test]
fn the_names_and_shapes_of_a_published_model_tell_its_towers() {
    use Architecture::*;
    for architecture in [Rn50, VitB32, VitB16, VitL14, VitL14At336, VitH14] {
        let folder = tempfile::tempdir().unwrap();
        let towers = architecture.published_model().unwrap();
        let found = find(&unwritten(folder.path(), &towers));
        assert_eq!(found.model_config().unwrap(), towers, "{architecture:?}");
    }
}

#[test]
fn what_shapes_do_not_tell_lies_beside_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let mut towers = Architecture::VitB16.published_model().unwrap();
    let path = unwritten(folder.path(), &towers);
    towers.image.vit.as_mut().unwrap().head_width = 96;
    towers.text.heads = 6;
    (
        towers.text.hidden_dropout_percent,
        towers.text.attention_dropout_percent,
    ) = (5, 0);

    let hugging_face = json!({
        "vision_config": { "num_attention_heads": 8 },
        "text_config": {
            "num_attention_heads": 6, "hidden_dropout_prob": 0.05, "attention_probs_dropout_prob": 0
        }
    });

    let reference = json!({
        "vision_head_width": 96, "text_num_attention_heads": 6, "text_hidden_dropout_prob": 0.05,
        "text_attention_probs_dropout_prob": 0.0
    });

    for beside in [hugging_face, reference] {
        std::fs::write(folder.path().join("config.json"), beside.to_string()).unwrap();
        assert_eq!(find(&path).model_config().unwrap(), towers, "{beside}");
    }
}

#[test]
fn weights_of_something_else_say_what_they_are_of() {
    let toy = find(&folder().join("ofa.pt"));
    assert_eq!(
        toy.towers.to_string(),
        "ViT 1×8 /2 at 4 px, BERT 1×6, 4 features"
    );

    let unfit = toy.model_config().unwrap_err().to_string();
    assert!(
        unfit.contains("ofa.pt: text.heads is 0; it must be at least 1"),
        "{unfit}"
    );

    let bert = find(&folder().join("bert.bin"));
    let part = bert.model_config().unwrap_err().to_string();
    assert!(
        part.contains("bert.bin is no whole model: it holds BERT 1×6. Name weights"),
        "{part}"
    );

    let model = Architecture::VitB16.published_model().unwrap();
    let (_, mut params) = Clip::new(
        &model,
        BatchCapacity {
            batch: 1,
            context: 3,
        },
    );

    let error = load_weights(&mut params, &bert.tensors, ModelPart::Text)
        .unwrap_err()
        .to_string();

    let right = "`bert.embeddings.word_embeddings.weight` is [10, 6], expected [21128, 768]";
    assert!(
        error.contains(right) && error.contains("the file holds BERT 1×6; compare"),
        "{error}"
    );
}

#[test]
fn the_projection_of_another_language_is_not_taken_for_ours() {
    for file in [
        "openai.state_dict.pt",
        "openai.torchscript.pt",
        "clip.safetensors",
    ] {
        let model = Architecture::VitB16.published_model().unwrap();
        let (_, mut params) = Clip::new(
            &model,
            BatchCapacity {
                batch: 1,
                context: 3,
            },
        );
        let error = load_weights(
            &mut params,
            &find(&folder().join(file)).tensors,
            ModelPart::Text,
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`bert.embeddings.LayerNorm.bias` is missing"),
            "{error}"
        );
        assert!(
            !error.to_string().contains("`text_projection` is"),
            "{error}"
        );
    }
}
