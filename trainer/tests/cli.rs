//! The program as a person or a pod meets it: what it answers, and with which code it ends.
#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};

use cnclip_crds::report::{ProgressReport, TrainerActivity};

#[path = "support/small.rs"]
#[expect(dead_code, reason = "what other tests ask for is there too")]
mod small;

fn cnclip(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cnclip"))
        .args(arguments)
        .env("CNCLIP_TERMINATION_LOG", folder.join("last-words"))
        .output()
        .unwrap()
}

fn last_words(folder: &Path) -> ProgressReport {
    serde_json::from_str(&std::fs::read_to_string(folder.join("last-words")).unwrap()).unwrap()
}

#[test]
fn words_that_make_no_sense_end_with_64_and_say_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &str); 4] = [
        (&[], "Usage: cnclip"),
        (&["trian"], "train"),
        (&["train"], "--config"),
        (&["prepare", "--images", "x"], "--texts"),
    ];

    for (arguments, expected) in rows {
        let output = cnclip(arguments, folder.path());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }

    assert_eq!(cnclip(&["--help"], folder.path()).status.code(), Some(0));
}

#[test]
fn a_machine_without_a_card_is_told_what_it_lacks() {
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }

    let folder = tempfile::tempdir().unwrap();
    let output = cnclip(&["device"], folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    let lacking = if cfg!(feature = "cuda") {
        "nvidia.com/gpu"
    } else {
        "trainer-cuda"
    };

    assert!(said.contains(lacking), "{said}");
}

#[test]
fn a_data_set_that_cannot_be_classified_is_told_of_before_weights_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("score.json");
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("test/0")).unwrap();
    std::fs::write(data.join("test/0/a.txt"), "no picture").unwrap();
    let config = serde_json::json!({
        "run": {"name": "score", "stage": "evaluate"}, "checkpoint": folder.path().join("absent"),
        "tasks": [{"name": "digits", "zeroShot": {"dataset": data, "preset": "mnist"}}],
        "artifacts": folder.path().join("scores"),
    });

    std::fs::write(&file, config.to_string()).unwrap();
    let output = cnclip(
        &["evaluate", "--config", file.to_str().unwrap()],
        folder.path(),
    );

    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{said}");
    for expected in ["Task digits", "There is no label_cn.txt", "images: 0/a.txt"] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_stage_is_trained_and_scored_from_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small::train_config(folder.path(), "run");
    config.run.attempt = 3;
    let file = folder.path().join("train.json");
    std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
    let output = cnclip(
        &["train", "--config", file.to_str().unwrap()],
        folder.path(),
    );

    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let report = last_words(folder.path());
    assert_eq!(
        (report.activity, report.step),
        (TrainerActivity::Done, small::STEPS as i64)
    );

    assert_eq!(
        (report.run, report.samples_seen),
        (config.run, 5 * small::STEPS as i64)
    );

    assert!(
        report.validation.is_some() && !report.checkpoints.is_empty() && report.peak_rss_bytes > 0
    );

    let file = folder.path().join("evaluate.yaml");
    let checkpoint = small::stage_uri(folder.path(), "run");
    let data = config.dataset;
    let results = folder.path().join("results");
    let text = format!(
        "run: {{name: score, stage: evaluate}}\ncheckpoint: {checkpoint}\nartifacts: {}\nmaxSkippedPercent: 20\n\
         tasks: [{{name: golden, retrieval: {{dataset: {data}}}}}]\n",
        results.display()
    );

    std::fs::write(&file, text).unwrap();
    let output = cnclip(
        &["evaluate", "--config", file.to_str().unwrap()],
        folder.path(),
    );

    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("golden") && table.contains("text→image"),
        "{table}"
    );

    let report = last_words(folder.path());
    assert_eq!(
        (report.activity, report.results.len()),
        (TrainerActivity::Done, 1)
    );
    assert!(results.join("results.json").exists());
    let page = std::fs::read_to_string(results.join("report.html")).unwrap();
    assert!(page.contains("golden") && page.contains("<svg") && page.contains("data:image/png"));
}

#[test]
fn an_unknown_key_ends_with_78_and_is_named_in_the_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serde_json::to_value(small::train_config(folder.path(), "run")).unwrap();
    config["learningRat"] = 1.into();
    let file = folder.path().join("train.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let output = cnclip(
        &["train", "--config", file.to_str().unwrap()],
        folder.path(),
    );

    assert_eq!(output.status.code(), Some(78));
    let failure = last_words(folder.path()).failure.unwrap();
    assert_eq!(failure.exit_code, 78);
    assert!(
        failure.message.contains("learningRat"),
        "{}",
        failure.message
    );
}

#[test]
fn runs_are_compared_by_the_curves_of_their_stages() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small::train_config(folder.path(), "one");
    config.run.name = "one".into();
    let file = folder.path().join("run.json");
    std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
    assert!(
        cnclip(
            &["train", "--config", file.to_str().unwrap()],
            folder.path()
        )
        .status
        .success()
    );

    let run = small::stage_uri(folder.path(), "one");
    let page = folder.path().join("page.html");
    let first = format!("first={run}");
    let page = page.to_str().unwrap();
    let output = cnclip(&["compare", &first, "--page", page], folder.path());
    let table = String::from_utf8(output.stdout).unwrap();
    let line: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();

    assert_eq!(line[..2], ["first", "8"], "{table}");
    assert!(
        std::fs::read_to_string(page)
            .unwrap()
            .contains("Validation recall")
    );

    let missing = format!("none={}", folder.path().join("none").display());
    for (word, code, expected) in [
        (run.as_str(), 64, "NAME=URI"),
        (&missing, 78, "no checkpoint"),
    ] {
        let output = cnclip(&["compare", word], folder.path());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
