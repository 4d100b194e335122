use cnclip::interop::reference_config;
use cnclip::model_resolver;
use cnclip::weights::{ModelPart, load_weights};
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use serde_json::Value;

use super::*;

/// The towers of a golden model with the weights at a URI.
fn read(model: &Path, uri: &Path) -> Params {
    let config = reference_config::read_model_config(&Store::open(words(model)).unwrap()).unwrap();
    let (_, mut params) = Clip::new(
        &config,
        BatchCapacity {
            batch: 1,
            context: 1,
        },
    );

    load_weights(
        &mut params,
        &model_resolver::resolve_weights(words(uri)).unwrap().tensors,
        ModelPart::All,
    )
    .unwrap();

    params
}

fn vocabulary(folder: &Path) -> PathBuf {
    let path = folder.join("own.txt");
    std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n").unwrap();
    path
}

#[test]
fn a_model_in_the_layouts_of_others_is_read_again_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = vocabulary(folder.path());
    for (name, format, file) in [
        ("vit_b16", "huggingface", ""),
        ("vit_b16", "ofa", "clip_cn.pt"),
        ("rn50", "ofa", "clip_cn.pt"),
    ] {
        let model = golden("model").join(name);
        let to = folder.path().join(name).join(format);
        let arguments = ["export", "--model", words(&model), "--format", format];
        let more = ["--to", words(&to), "--vocab", words(&vocabulary)];
        succeed(&[&arguments[..], &more].concat(), b"");
        let found = read(&model, &to.join(file));
        let right = read(&model, &model);
        for (found, right) in [(found.values, right.values), (found.buffers, right.buffers)] {
            assert_eq!(found.to_host(), right.to_host(), "{name} as {format}");
        }
    }
}

#[test]
fn a_folder_for_transformers_says_what_the_model_is() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = vocabulary(folder.path());
    let model = golden("model/vit_b16");
    let to = folder.path().join("to");
    let arguments = [
        "export",
        "--model",
        words(&model),
        "--format",
        "huggingface",
    ];

    let more = ["--to", words(&to), "--vocab", words(&vocabulary)];
    succeed(&[&arguments[..], &more].concat(), b"");
    let json = |name| {
        std::fs::read_to_string(to.join(name))
            .unwrap()
            .parse::<Value>()
            .unwrap()
    };

    let config = json("config.json");
    assert_eq!(config["vision_config"]["num_attention_heads"], 3);
    assert_eq!(config["text_config"]["vocab_size"], 512);
    assert_eq!(json("preprocessor_config.json")["size"]["height"], 64);
    assert_eq!(json("tokenizer_config.json")["model_max_length"], 52);
    assert_eq!(
        std::fs::read(to.join("vocab.txt")).unwrap(),
        std::fs::read(&vocabulary).unwrap()
    );
}

#[test]
fn a_model_that_a_layout_has_no_place_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("model/rn50");
    let to = folder.path().join("to");
    let arguments = [
        "export",
        "--model",
        words(&model),
        "--format",
        "huggingface",
    ];

    refuse(
        &[&arguments[..], &["--to", words(&to)]].concat(),
        b"",
        78,
        "with a ResNet",
    );

    let model = golden("model/vit_b16");
    let arguments = [
        "export",
        "--model",
        words(&model),
        "--format",
        "huggingface",
    ];

    let expected = "it has 21128 entries, and the model 512";
    refuse(
        &[&arguments[..], &["--to", words(&to)]].concat(),
        b"",
        78,
        expected,
    );

    assert!(!to.exists());
}
