//! The committed definitions are those of the code. `UPDATE=1 cargo test` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use cnclip_operator::definitions;

#[path = "support/committed.rs"]
mod committed;

use committed::assert_committed;

/// Where they are committed: for `kubectl apply`, and where Helm can read them.
const FOLDERS: [&str; 2] = ["crds", "charts/cn-clip/files/crds"];

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    for (name, yaml) in definitions::files().unwrap() {
        for folder in FOLDERS {
            assert_committed(&format!("{folder}/{name}"), &yaml);
        }
    }
}

#[test]
fn every_definition_is_small_and_explains_itself() {
    for (name, yaml) in definitions::files().unwrap() {
        // `kubectl apply` keeps a copy in an annotation, and those have room for 262,144 bytes.
        assert!(yaml.len() < 130_000, "{name} has {} bytes", yaml.len());
        for noise in ["uint32", "uint64", "format: double", "format: float", "Auto-generated"] {
            assert!(!yaml.contains(noise), "{name} has {noise}");
        }
    }
}
