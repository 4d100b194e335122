use serde_json::Value;

use super::*;

/// Towers that take a second.
fn write_towers(folder: &Path) -> PathBuf {
    let file = folder.join("towers.json");
    let towers = serde_json::json!({
        "embedDim": 8,
        "image": {"resolution": 16, "vit": {"layers": 2, "width": 16, "patchSize": 8, "headWidth": 8}},
        "text": {"vocabSize": 30, "layers": 2, "width": 12, "heads": 2, "intermediate": 24, "positions": 9},
    });

    std::fs::write(&file, towers.to_string()).unwrap();
    file
}

#[test]
fn a_table_of_all_tensors_ends_in_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    let towers = write_towers(folder.path());
    let arguments = ["verify", "--towers", words(&towers), "--device", "cpu"];
    let table = String::from_utf8(succeed(&arguments, b"")).unwrap();
    let lines: Vec<&str> = table.lines().collect();

    assert!(lines[0].starts_with("TENSOR"), "{table}");
    assert!(lines[0].ends_with("RELATIVE ERROR  TOLERANCE"), "{table}");
    for tensor in [
        "visual.conv1.weight",
        "bert.encoder.layer.1 ",
        "loss",
        "logit_scale",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(tensor)),
            "{tensor}: {table}"
        );
    }

    let summary = lines[lines.len() - 1];
    assert!(summary.starts_with("this machine's CPU in fp32"), "{table}");
    assert!(summary.ends_with("tensors are within tolerance"), "{table}");
    assert!(!table.contains("FAILED"), "{table}");
}

#[test]
fn a_trained_model_is_verified_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let config = trained(folder.path());
    let stage = format!("{}/train", config.artifacts);
    let batch = ["--batch", "6", "--seed", "5", "--json"];
    let arguments = [
        &["verify", "--model", &stage, "--device", "cpu"],
        &batch[..],
    ]
    .concat();
    let report: Value = serde_json::from_slice(&succeed(&arguments, b"")).unwrap();

    assert_eq!(report["passed"], true);
    assert_eq!(report["batch"], 6);
    assert_eq!(report["firstDeviation"], Value::Null);
    let rows = report["rows"].as_array().unwrap();
    let share =
        |row: &Value| row["relativeError"].as_f64().unwrap() / row["tolerance"].as_f64().unwrap();

    assert!(
        rows.windows(2)
            .all(|pair| share(&pair[0]) >= share(&pair[1]))
    );
    let statistics = rows
        .iter()
        .filter(|row| row["quantity"] == "runningStatistic");
    assert!(statistics.count() > 0);
}

#[test]
fn what_cannot_be_verified_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let towers = write_towers(folder.path());
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{}").unwrap();
    let nowhere = folder.path().join("nowhere");

    let preset = ["verify", "--preset", "ViT-B-17"];
    refuse(
        &preset,
        b"",
        64,
        "--preset takes one of RN50, ViT-B-32, ViT-B-16",
    );
    let missing = ["verify", "--towers", words(&nowhere)];
    refuse(&missing, b"", 78, "cannot read");
    let invalid = ["verify", "--towers", words(&broken)];
    refuse(&invalid, b"", 78, "does not describe towers");
    let weights = ["verify", "--model", words(&nowhere)];
    refuse(&weights, b"", 78, "holds no weights");
    // 4096 images of a large model are more than any machine here has memory for.
    let large = [
        "verify", "--preset", "ViT-H-14", "--device", "cpu", "--batch", "4096",
    ];
    refuse(&large, b"", 78, "lower --batch or take a smaller model");

    if !cnclip_compute::cuda::BUILT_WITH_CUDA {
        let device = ["verify", "--towers", words(&towers), "--device", "cuda"];
        refuse(&device, b"", 78, "Give --device cpu to verify the CPU");
    }
}
