use std::fs;

use serde_json::{Value, json};

use super::*;

fn inspect(uri: &str) -> Value {
    serde_json::from_slice(&succeed(&["inspect", uri, "--json"], b"")).unwrap()
}

#[test]
fn weights_of_others_are_told_by_their_names_and_shapes() {
    let layouts = golden("model/layouts");
    let clip = inspect(words(&layouts.join("openai.torchscript.pt")));
    assert_eq!(clip["layout"], "CLIP (OpenAI, open_clip)");
    assert_eq!(clip["architecture"], "ViT 1×8 /2 at 4 px, 4 features");
    assert_eq!(
        clip["parameters"],
        json!({"image": 1080, "text": 0, "total": 1081})
    );

    assert_eq!(clip["dtypes"], json!(["F16"]));
    assert_eq!(clip["left_out"].as_array().unwrap().len(), 18);
    assert_eq!(
        (&clip["preset"], &clip["step"]),
        (&Value::Null, &Value::Null)
    );

    let checkpoint = inspect(words(&golden("model/checkpoint.pt")));
    assert_eq!(
        (&checkpoint["epoch"], &checkpoint["step"]),
        (&json!(1), &json!(0))
    );

    let table = succeed(&["inspect", words(&layouts.join("bert.bin"))], b"");
    let table = String::from_utf8(table).unwrap();
    for line in [
        "layout        BERT\n",
        "numbers       F32\n",
        "left out      bert.* (2), cls.* (1)\n",
    ] {
        assert!(table.contains(line), "{table}");
    }
}

/// The last checkpoint of a run that ended.
fn checkpoint(folder: &Path) -> PathBuf {
    trained(folder);
    small::newest_checkpoint(folder, "run")
}

#[test]
fn a_checkpoint_is_told_by_what_was_written_of_it_and_its_values_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path());
    let weights = checkpoint.join("weights.safetensors");
    let sha256 = cnclip_compute::digest::sha256(&fs::read(&weights).unwrap());
    small::flip_a_byte(&weights);
    let told = inspect(words(&checkpoint));

    assert_eq!(told["uri"], words(&checkpoint));
    assert_eq!(told["layout"], "checkpoint of cnclip");
    assert_eq!(
        told["architecture"],
        "ResNet [1, 1, 1, 1]×4 at 32 px, BERT 1×10, 6 features"
    );

    assert_eq!(
        (&told["step"], &told["sha256"]),
        (&json!(small::STEPS), &json!(sha256))
    );

    let manifest = fs::read(checkpoint.join("manifest.json")).unwrap();
    assert_eq!(told["digest"], cnclip_compute::digest::sha256(&manifest));
    assert_eq!(told["dtypes"], json!(["F32", "I64"]));
    refuse(
        &["inspect", words(folder.path())],
        b"",
        78,
        "holds no weights",
    );
}

#[test]
fn weights_that_come_without_a_training_are_scored_as_those_of_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path());
    let published = folder.path().join("published");
    fs::create_dir(&published).unwrap();
    fs::copy(
        checkpoint.join("weights.safetensors"),
        published.join("model.safetensors"),
    )
    .unwrap();

    fs::write(
        published.join("config.json"),
        r#"{"text_config": {"num_attention_heads": 2}}"#,
    )
    .unwrap();

    let config = small::train_config(folder.path(), "run");
    let score = |model: &Path, name: &str| {
        let file = folder.path().join("evaluate.json");
        let results = folder.path().join(name);
        let text = json!({
            "run": {"name": name, "stage": "evaluate"}, "checkpoint": model, "artifacts": results,
            "vocabulary": config.vocabulary, "maxSkippedPercent": 20,
            "tasks": [{"name": "golden", "retrieval": {"dataset": config.dataset}}],
        });

        fs::write(&file, text.to_string()).unwrap();
        succeed(&["evaluate", "--config", words(&file)], b"");
        let page = fs::read_to_string(results.join("report.html")).unwrap();
        assert!(page.contains("ResNet [1, 1, 1, 1]×4 at 32 px"));
        let results = fs::read(results.join("results.json")).unwrap();

        serde_json::from_slice::<Value>(&results).unwrap()["tasks"][0]["retrieval"]["recalls"]
            .clone()
    };

    assert_eq!(score(&published, "a"), score(&checkpoint, "b"));
}
