//! The reference under docs/reference is that of the code. `UPDATE=1 cargo test` writes what is generated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cnclip_crds::exit_code::TrainerExit;
use cnclip_operator::crd_manifests;
use cnclip_operator::metrics::Metrics;
use cnclip_operator::plan::failure::FailureClass;
use prometheus::core::Collector;
use serde_json::Value;

#[path = "support/committed.rs"]
mod committed;

use committed::assert_committed;

const GENERATED: &str =
    "<!-- Generated from the code: UPDATE=1 cargo test -p cnclip-operator --test reference -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The variants of an enum with their doc comments, as they are written in a source file.
fn documented_variants(file: &str, name: &str) -> Vec<(String, String)> {
    let source = read(file);
    let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    let mut found = Vec::new();
    let mut doc = Vec::new();

    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim().to_owned());
        } else if let Some(variant) = line.strip_suffix(',') {
            found.push((variant.to_owned(), doc.join(" ")));
            doc.clear();
        }
    }

    found
}

#[test]
fn every_failure_class_is_in_the_reference() {
    let mut text = format!(
        "{GENERATED}\n# Failure classes\n\nWhat ended an attempt: `status.lastFailure.class`, the reason of the \
         condition `Failed` and of the warning event, and the label `class` of \
         `cnclip_operator_attempt_failures_total`. The budget says which of `spec.retries` pays for another \
         attempt.\n\n| class | what happened | retries |\n|---|---|---|\n"
    );

    let documented = documented_variants("operator/src/plan/failure/class.rs", "FailureClass");
    assert_eq!(documented.len(), FailureClass::ALL.len());
    for (class, (variant, doc)) in FailureClass::ALL.into_iter().zip(documented) {
        assert_eq!(
            format!("{class:?}"),
            variant,
            "ALL is in the order of the declaration"
        );
        let budget = format!("{:?}", class.retry_budget()).to_lowercase();
        text += &format!("| `{}` | {doc} | {budget} |\n", class.name());
    }

    assert_committed("docs/reference/failure-classes.md", &text);
}

#[test]
fn every_exit_code_is_in_the_reference() {
    let mut text = format!(
        "{GENERATED}\n# Exit codes\n\nWhat `cnclip` ends with. The operator decides from the code alone whether an \
         attempt is repeated ([failure classes](failure-classes.md)).\n\n| code | name | meaning |\n|---|---|---|\n"
    );

    let documented = documented_variants("crds/src/exit_code.rs", "TrainerExit");
    let mut count = 0;
    for code in 0..=255 {
        let Some(exit) = TrainerExit::from_code(code) else {
            continue;
        };

        let name = format!("{exit:?}");
        let (_, doc) = documented
            .iter()
            .find(|(variant, _)| *variant == name)
            .unwrap();
        text += &format!("| {code} | `{name}` | {doc} |\n");
        count += 1;
    }

    assert_eq!(count, documented.len(), "every exit has a code of its own");
    text += "\nA process that a signal ends has no code of these: 137 is SIGKILL (often the kernel's OOM killer), 143 SIGTERM.\n";
    assert_committed("docs/reference/exit-codes.md", &text);
}

#[test]
fn every_metric_of_the_operator_is_in_the_reference() {
    let metrics = Metrics::new().unwrap();
    let collectors: [&dyn Collector; 9] = [
        &metrics.reconciles,
        &metrics.reconcile_seconds,
        &metrics.attempt_failures,
        &metrics.ended_runs,
        &metrics.writes,
        &metrics.progress_reads,
        &metrics.poll_lag_seconds,
        &metrics.polled_pods,
        &metrics.leader,
    ];

    let mut text = format!(
        "{GENERATED}\n# Metrics of the operator\n\nServed on `/metrics` of the operator's pod. \
         `cnclip_evaluation_score` has the labels `namespace`, `name`, `task` and `metric`.\n\n\
         | metric | labels | what it counts |\n|---|---|---|\n"
    );

    let mut documented = BTreeSet::new();
    for desc in collectors.iter().flat_map(|collector| collector.desc()) {
        let labels = desc.variable_labels.join(", ");
        text += &format!("| `{}` | {labels} | {} |\n", desc.fq_name, desc.help);
        documented.insert(desc.fq_name.clone());
    }

    let source = production_code(&read("operator/src/metrics.rs"))
        + &production_code(&read("operator/src/metrics/scores.rs"));
    for name in quoted_words(&source).filter(|word| word.starts_with("cnclip_operator_")) {
        if documented.insert(name.clone()) {
            text += &format!("| `{name}` | | {} |\n", help_after(&source, &name));
        }
    }

    assert_committed("docs/reference/metrics-operator.md", &text);
}

/// The code before a file's tests.
fn production_code(source: &str) -> String {
    let code = source.split("#[cfg(test)]").next().unwrap();
    code.to_owned()
}

/// Every string literal of a source text.
fn quoted_words(source: &str) -> impl Iterator<Item = String> {
    source.split('"').skip(1).step_by(2).map(str::to_owned)
}

/// The help text that stands before a metric's name in the source.
fn help_after(source: &str, name: &str) -> String {
    let before = source.split(&format!("\"{name}\"")).next().unwrap();
    let help = before.rsplit("let help = \"").next().unwrap();
    help.split('"').next().unwrap().to_owned()
}

/// Words in quotes with a capital letter that are no reasons: values, kinds, and reasons of Kubernetes that
/// are read and not written.
const NOT_REASONS: [&str; 35] = [
    "ContainerStatusUnknown",
    "True",
    "False",
    "Unknown",
    "Accepted",
    "Error",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "ContainerCreating",
    "PodInitializing",
    "SchedulingGated",
    "OOMKilled",
    "ContainerCannotRun",
    "StartError",
    "DisruptionTarget",
    "PreemptionByScheduler",
    "Preempting",
    "EvictionByEvictionAPI",
    "DeletionByTaintManager",
    "DeletionByPodGC",
    "TerminationByKubelet",
    "NodeShutdown",
    "Terminated",
    "UnexpectedAdmissionError",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "PodFailurePolicy",
    "Completed",
    "Why",
];

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            if path.is_dir() {
                source_files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| {
            path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
        })
        .filter(|path| !path.components().any(|part| part.as_os_str() == "tests"))
        .collect()
}

/// The reasons that the decisions of the operator name, read off the source.
fn reasons_of_the_code() -> BTreeSet<String> {
    let classes: BTreeSet<_> = FailureClass::ALL.iter().map(|class| class.name()).collect();
    let source = root().join("operator/src");
    let folders = ["plan", "status", "resolve"].map(|name| source.join(name));
    let files = folders.iter().flat_map(|folder| source_files(folder));
    let mut found = BTreeSet::new();

    for file in files.chain([source.join("poll_failure.rs")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = production_code(&text);
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        found.extend(quoted_words(&code).filter(|word| {
            word.len() > 3
                && word.starts_with(char::is_uppercase)
                && word.chars().all(char::is_alphanumeric)
                && word.chars().any(char::is_lowercase)
                && !NOT_REASONS.contains(&word.as_str())
                && !classes.contains(word.as_str())
        }));
    }

    found
}

#[test]
fn every_reason_of_a_condition_or_an_event_is_in_the_reference() {
    let page = read("docs/reference/conditions.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<String> = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(reason, _)| reason.to_owned())
        .collect();

    let code = reasons_of_the_code();
    let missing: Vec<_> = code.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&code).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/reference/conditions.md lacks {missing:?}, and names {stale:?} that no code has"
    );
}

/// The rows of a table of a schema's fields, the nested ones below their parents.
fn field_rows(path: &str, schema: &Value, rows: &mut Vec<String>) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();

    let Some(properties) = schema["properties"].as_object() else {
        return;
    };

    for (name, field) in properties {
        let path = format!("{path}.{name}");
        let mut kind = field["type"].as_str().unwrap_or("object").to_owned();
        if let Some(words) = field["enum"].as_array() {
            let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
            kind = words.join(", ");
        }

        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            value => format!("`{value}`"),
        };

        let description = field["description"].as_str().unwrap_or_default();
        let description = description.replace('\n', " ").replace('|', "\\|");
        rows.push(format!("| `{path}` | {kind} | {default} | {description} |"));
        field_rows(&path, field, rows);
        field_rows(&format!("{path}[]"), &field["items"], rows);
    }
}

#[test]
fn every_field_of_a_manifest_is_in_the_reference() {
    for (_, yaml) in crd_manifests::crd_files().unwrap() {
        let definition: Value = serde_norway::from_str(&yaml).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let mut text = format!("{GENERATED}\n# {kind}\n");
        for part in ["spec", "status"] {
            let mut rows = Vec::new();
            field_rows(part, &schema[part], &mut rows);
            assert!(!rows.is_empty(), "{kind} has fields in {part}");
            text += &format!(
                "\n## {part}\n\n| field | type | default | description |\n|---|---|---|---|\n{}\n",
                rows.join("\n")
            );
        }

        let file = format!("docs/reference/{}.md", kind.to_lowercase());
        assert_committed(&file, &text);
    }
}
