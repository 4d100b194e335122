use std::fs;

use serde_json::{Value, json};

use super::*;

#[test]
fn a_split_of_the_reference_is_scored_as_the_shards_that_are_made_of_it() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let prepared = folder.path().join("prepared");
    let of_file = golden("dataset/train");
    let of_databases = golden("dataset/lmdb/train");
    let images = golden("dataset/train_imgs.tsv");
    let texts = golden("dataset/train_texts.jsonl");
    let files = ["--images", words(&images), "--texts", words(&texts)];

    let prepare = [
        "prepare",
        "--most-skipped",
        "10",
        "--output",
        words(&prepared),
    ];

    succeed(&[&prepare[..], &files].concat(), b"");

    let results = folder.path().join("results");
    let sets = [&prepared, &of_file, &of_databases];
    let task = |(number, dataset)| json!({"name": format!("t{number}"), "retrieval": {"dataset": dataset}});
    let tasks: Vec<_> = sets.into_iter().enumerate().map(task).collect();
    let text = json!({
        "run": {"name": "score", "stage": "evaluate"}, "artifacts": results, "tasks": tasks,
        "checkpoint": small::stage_uri(folder.path(), "run"), "maxSkippedPercent": 20,
    });

    let file = folder.path().join("evaluate.json");
    fs::write(&file, text.to_string()).unwrap();
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut evaluate = Command::new(env!("CARGO_BIN_EXE_cnclip"));
    let evaluate = evaluate
        .args(["evaluate", "--config", words(&file)])
        .env("TMPDIR", &temporary);

    let output = evaluate.output().unwrap();
    assert_eq!(
        fs::read_dir(&temporary).unwrap().count(),
        0,
        "shards were left behind"
    );

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains(words(&images)),
        "{told}"
    );

    let found: Value =
        serde_json::from_slice(&fs::read(results.join("results.json")).unwrap()).unwrap();
    let found = found["tasks"].as_array().unwrap();
    assert!(
        found[0]["retrieval"]["recalls"]["textToImage"]["r1"].is_number(),
        "{found:?}"
    );

    for (task, dataset) in found.iter().zip(sets) {
        assert_eq!(task["dataset"], words(dataset));
        for same in ["digest", "retrieval", "images"] {
            assert_eq!(
                task[same],
                found[0][same],
                "{same} of {}",
                dataset.display()
            );
        }
    }

    let lines = |task: &str| {
        fs::read(results.join("tasks").join(task).join("text_to_image.jsonl")).unwrap()
    };

    assert!(lines("t0") == lines("t1") && lines("t0") == lines("t2"));
}
