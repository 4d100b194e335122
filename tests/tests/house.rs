//! The house stands as ARCHITECTURE.md draws it: which room may know what, read off the source.

#![cfg(test)]

use std::path::{Path, PathBuf};

/// A room, and words that none of its files may use outside of tests.
type Rule = (&'static [&'static str], &'static [&'static str]);

const RULES: [Rule; 6] = [
    // The contract talks to nobody; the trainer knows no Kubernetes; the operator no tensor.
    (
        &["crds/src"],
        &["tokio", "kube::Client", "candle", "std::fs"],
    ),
    (&["trainer/src"], &["kube::", "k8s_openapi"]),
    (&["operator/src"], &["candle", "cnclip::", "object_store"]),
    // The mathematics knows devices, but no vendor's.
    (
        &[
            "trainer/src/array.rs",
            "trainer/src/array",
            "trainer/src/device.rs",
            "trainer/src/device",
            "trainer/src/model",
            "trainer/src/ops",
        ],
        &["cudarc", "crate::cuda", "feature = \"cuda\""],
    ),
    // Decisions have no client, no clock and no wait.
    (
        &[
            "operator/src/plan.rs",
            "operator/src/plan",
            "operator/src/objects",
            "operator/src/status",
        ],
        &[
            "kube::Client",
            "Client,",
            "tokio",
            "Instant",
            "SystemTime",
            "Timestamp::now",
        ],
    ),
    // Mathematics and pixels read and write nothing.
    (
        &[
            "trainer/src/model",
            "trainer/src/ops",
            "trainer/src/loss.rs",
            "trainer/src/loss",
            "trainer/src/accumulate.rs",
            "trainer/src/schedule.rs",
            "trainer/src/optimizer.rs",
            "trainer/src/average.rs",
            "trainer/src/distillation.rs",
            "trainer/src/params.rs",
            "trainer/src/data/augment",
            "trainer/src/data/augment.rs",
            "trainer/src/data/decode",
            "trainer/src/data/decode.rs",
            "trainer/src/data/resize.rs",
            "trainer/src/data/preprocess.rs",
            "trainer/src/data/tokenize.rs",
        ],
        &["std::fs", "crate::store", "tokio", "Instant", "SystemTime"],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file at a path, tests apart.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }

    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut found: Vec<_> = entries
        .flat_map(|entry| files(&entry.unwrap().path()))
        .collect();

    found.retain(|file| {
        file.extension().is_some_and(|end| end == "rs") && !file.ends_with("tests.rs")
    });

    found
}

/// The lines of code before a file's tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));

    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_room_knows_what_it_must_not() {
    let mut broken = Vec::new();
    for (rooms, forbidden) in RULES {
        for file in rooms.iter().flat_map(|room| files(&root().join(room))) {
            let code = code(&file);
            let words = forbidden.iter().filter(|word| code.contains(**word));
            broken.extend(words.map(|word| format!("{} uses {word}", file.display())));
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_trainer_is_built_without_the_contracts_kubernetes() {
    let manifest = std::fs::read_to_string(root().join("trainer/Cargo.toml")).unwrap();
    assert!(
        manifest.contains("cnclip-crds.workspace = true"),
        "the contract as it is, no feature"
    );

    assert!(!manifest.contains("kube"), "no crate of Kubernetes");
}
