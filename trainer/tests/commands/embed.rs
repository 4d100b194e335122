use std::collections::HashSet;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use super::*;

/// Numbers and features of a feature file, in its order.
fn features(path: &Path, key: &str) -> Vec<(u64, Vec<f32>)> {
    let row = |line: &str| {
        let row: Value = line.parse().unwrap();
        let feature = row["feature"].as_array().unwrap();
        let feature = feature
            .iter()
            .map(|value| value.as_f64().unwrap() as f32)
            .collect();

        (row[key].as_u64().unwrap(), feature)
    };

    fs::read_to_string(path).unwrap().lines().map(row).collect()
}

fn vocabulary(folder: &Path) -> PathBuf {
    let path = folder.join("vocab.txt");
    fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n狗\nab\n##c\n\"\n").unwrap();
    path
}

#[test]
fn features_are_what_the_other_commands_say_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name| folder.path().join(name);
    let model = golden("model/vit_b16");
    let vocabulary = vocabulary(folder.path());
    let pictures = [
        (5, "png_rgba.png"),
        (2, "jpeg_420_q90.jpg"),
        (9, "gif_animated.gif"),
    ];

    let paths = pictures.map(|(_, name)| golden("images/usual").join(name));
    let [
        images,
        texts,
        image_features,
        text_features,
        pixels,
        batch,
        gradients,
    ] = ["i.tsv", "t.jsonl", "i.jsonl", "f.jsonl", "p", "b", "g"].map(file);

    let line = |(id, path): (u64, &PathBuf)| {
        format!("{id}\t{}\n", STANDARD.encode(fs::read(path).unwrap()))
    };

    let lines: String = pictures
        .iter()
        .zip(&paths)
        .map(|((id, _), p)| line((*id, p)))
        .collect();

    fs::write(&images, lines).unwrap();
    let sentences = [(70, "“ABC”猫"), (3, ""), (8, "狗狗狗狗狗狗狗狗狗")];
    let lines = sentences.map(|(id, text)| json!({"text_id": id, "text": text, "image_ids": []}));
    let lines = lines.map(|line| format!("{line}\n")).concat();
    fs::write(&texts, &lines).unwrap();
    let arguments = [
        &[
            "embed",
            "--model",
            words(&model),
            "--vocab",
            words(&vocabulary),
        ][..],
        &[
            "--images",
            words(&images),
            "--image-features",
            words(&image_features),
        ],
        &[
            "--texts",
            words(&texts),
            "--text-features",
            words(&text_features),
        ],
        &["--batch-size", "2", "--context-length", "7"],
    ];

    succeed(&arguments.concat(), b"");

    let arguments = ["preprocess", "--size", "64", "--output", words(&pixels)];
    let paths = paths.each_ref().map(|path| words(path));
    succeed(&[&arguments[..], &paths].concat(), b"");
    let rules = ["--vocab", words(&vocabulary), "--dataset-rules"];
    let arguments = [&["tokenize", "--context-length", "7"][..], &rules].concat();
    let ids = String::from_utf8(succeed(&arguments, lines.as_bytes())).unwrap();
    let padded = ids.lines().flat_map(|line| {
        let mut ids: Vec<i64> = serde_json::from_str(line).unwrap();
        ids.resize(7, 0);
        ids
    });

    let ids: Vec<u8> = padded.flat_map(i64::to_le_bytes).collect();
    // The image file is read in the order of its numbers.
    let bytes = fs::read(&pixels).unwrap();
    let tensors_of = SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<u8> = [1, 0, 2]
        .iter()
        .flat_map(|&i| {
            tensors_of
                .tensor(&format!("pixels/{}", pictures[i].1))
                .unwrap()
                .data()
        })
        .copied()
        .collect();

    let values = TensorView::new(Dtype::F32, vec![3, 3, 64, 64], &values).unwrap();
    let ids = TensorView::new(Dtype::I64, vec![3, 7], &ids).unwrap();
    serialize_to_file([("images", values), ("texts", ids)], None, &batch).unwrap();
    let files = ["--batch", words(&batch), "--output", words(&gradients)];
    succeed(
        &[&["gradients", "--model", words(&model)][..], &files].concat(),
        b"",
    );

    let right = tensors(&gradients);
    for (file, name, key, order) in [
        (image_features, "image_features", "image_id", [2, 5, 9]),
        (text_features, "text_features", "text_id", [70, 3, 8]),
    ] {
        let found = features(&file, key);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order);
        for ((_, found), right) in found.iter().zip(right[name].values.chunks(32)) {
            let error = found
                .iter()
                .zip(right)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);

            assert!(error < 1e-6, "{name}: {error}");
        }
    }
}

#[test]
fn features_of_a_checkpoint_are_worth_what_its_evaluation_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = trained(folder.path());
    let stage = small::stage_uri(folder.path(), "run");
    let results = folder.path().join("results");
    let text = json!({
        "run": {"name": "score", "stage": "evaluate"}, "checkpoint": stage, "artifacts": results,
        "maxSkippedPercent": 20,
        "tasks": [{"name": "golden", "retrieval": {"dataset": config.dataset}}],
    });

    let file = folder.path().join("evaluate.json");
    fs::write(&file, text.to_string()).unwrap();
    succeed(&["evaluate", "--config", words(&file)], b"");

    let files = ["images", "texts", "relevance"].map(|name| folder.path().join(name));
    let outputs = [
        "--image-features",
        words(&files[0]),
        "--text-features",
        words(&files[1]),
    ];

    let arguments = ["embed", "--model", &stage, "--dataset", &config.dataset];
    succeed(&[&arguments[..], &outputs].concat(), b"");
    let texts = features(&files[1], "text_id");
    let known: HashSet<u64> = texts.iter().map(|(id, _)| *id).collect();
    assert_eq!(
        (known.len(), features(&files[0], "image_id").len()),
        (texts.len(), 12)
    );

    let relevance = fs::read_to_string(golden("dataset/train_texts.jsonl")).unwrap();
    let kept = relevance.lines().filter(|line| {
        known.contains(&line.parse::<Value>().unwrap()["text_id"].as_u64().unwrap())
    });

    fs::write(&files[2], kept.collect::<Vec<_>>().join("\n")).unwrap();
    let found: Value = serde_json::from_slice(&succeed(&score::score(&files), b"")).unwrap();
    let right = fs::read_to_string(results.join("results.json")).unwrap();
    let right = &right.parse::<Value>().unwrap()["tasks"][0]["retrieval"]["recalls"];

    for (direction, ours) in [
        ("text_to_image", "textToImage"),
        ("image_to_text", "imageToText"),
    ] {
        assert_eq!(found[direction]["r1"], right[ours]["r1"], "{direction}");
        assert_eq!(
            found[direction]["mean_recall"], right[ours]["meanRecall"],
            "{direction}"
        );
    }
}

#[test]
fn what_cannot_be_encoded_is_told_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name| folder.path().join(name);
    let model = golden("model/vit_b16");
    let vocabulary = vocabulary(folder.path());
    let [images, texts, to] = ["i.tsv", "t.jsonl", "features"].map(file);

    fs::write(&images, "7\tQUJDREVGRw==\n").unwrap();
    fs::write(&texts, "{\"text_id\": \"\", \"text\": \"b\"}").unwrap();
    let start = [
        "embed",
        "--model",
        words(&model),
        "--vocab",
        words(&vocabulary),
    ];

    let of_images = ["--images", words(&images), "--image-features", words(&to)];
    let of_texts = ["--texts", words(&texts), "--text-features", words(&to)];
    let run = |arguments: &[&str], code, expected: &str| {
        refuse(&[&start[..], arguments].concat(), b"", code, expected);
        assert!(!to.exists());
    };

    run(
        &of_images,
        65,
        "i.tsv line 1: an image begins with the bytes",
    );

    run(
        &of_texts,
        65,
        "t.jsonl line 1, column 14: invalid value: string",
    );

    run(&of_texts[2..], 64, "give --texts or --dataset too");
    run(
        &[&of_texts[..], &["--context-length", "65"]].concat(),
        64,
        "the model has 64 positions",
    );

    let start = ["embed", "--model", words(&model)];
    refuse(&[&start[..], &of_texts].concat(), b"", 78, "the model");
    let nowhere = ["embed", "--model", words(folder.path())];
    refuse(
        &[&nowhere[..], &of_texts].concat(),
        b"",
        78,
        "holds no weights",
    );
}
