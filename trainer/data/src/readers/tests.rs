//! Tests of the readers: the contract of all formats, and what is peculiar to one.

mod contract;
mod lmdb;

use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvOpenOptions};

/// The eight bytes that every PNG begins with.
const PNG: &str = "iVBORw0KGgo=";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/dataset")
        .join(name)
}

/// Writes a database of these entries.
fn write_database(folder: &Path, name: &str, entries: &[(String, Vec<u8>)]) {
    let path = folder.join(name);
    std::fs::create_dir(&path).unwrap();
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 24);
    // SAFETY: no other process uses the folder.
    let env = unsafe { options.open(&path) }.unwrap();
    let txn = env.write_txn().unwrap();
    let table = env
        .create_databases_and_commit(txn, |opener, txn| {
            let table = opener.create_database::<Bytes, Bytes>(txn, None);
            table.map(CommitOrAbort::<_, ()>::Commit)
        })
        .unwrap()
        .commit()
        .unwrap();

    let mut txn = env.write_txn().unwrap();
    for (key, value) in entries {
        table.put(&mut txn, key.as_bytes(), value).unwrap();
    }

    txn.commit().unwrap();
}

fn pickled_pair(
    image: &impl serde::Serialize,
    text: &impl serde::Serialize,
    words: &str,
) -> Vec<u8> {
    serde_pickle::to_vec(&(image, text, words), serde_pickle::SerOptions::new()).unwrap()
}
