//! Files that are written by the code and committed beside it. `UPDATE=1 cargo test` writes them.

use std::{env, fs, path::Path};

/// Asserts that a file, named from the root of the project, holds this; writes it first if asked to.
pub(crate) fn assert_committed(file: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }

    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == content, "{file} is old: UPDATE=1 writes it");
}
