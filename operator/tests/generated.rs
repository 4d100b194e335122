//! The committed definitions are those of the code. `UPDATE=1 cargo test` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::{env, fs, path::Path};

use cnclip_operator::definitions;

/// Where they are committed: for `kubectl apply`, and where Helm can read them.
const FOLDERS: [&str; 2] = ["crds", "charts/cn-clip/files/crds"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    for (name, yaml) in definitions::files().unwrap() {
        for folder in FOLDERS {
            let path = root().join(folder).join(&name);
            if env::var_os("UPDATE").is_some() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, &yaml).unwrap();
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == yaml, "{} is old: UPDATE=1 writes it", path.display());
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
