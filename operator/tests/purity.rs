//! What decides knows no client, no clock and no runtime: read from the `use` lines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const PURE: [&str; 8] =
    ["plan", "objects", "status", "run", "observed.rs", "ledger.rs", "work.rs", "time.rs"];
const FORBIDDEN: [&str; 7] =
    ["kube::Client", "Client,", "tokio", "Instant", "SystemTime", "Timestamp::now", "std::net"];

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.flat_map(|entry| files(&entry.path())).collect()
}

#[test]
fn what_decides_knows_no_client_and_no_clock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let with_root = |name: &&str| [source.join(name), source.join(format!("{name}.rs"))];
    let pure: Vec<_> = PURE.iter().flat_map(with_root).flat_map(|path| files(&path)).collect();
    assert!(pure.len() > 15, "found only {pure:?}");
    for path in pure {
        let text = fs::read_to_string(&path).unwrap();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}
