use std::path::PathBuf;

use super::*;
use crate::prepare::tests::prepare_files;

const IMAGES: &str = "train_imgs.tsv";
const TEXTS: &str = "train_texts.jsonl";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/dataset")
        .join(name)
}

fn options() -> PrepareOptions {
    PrepareOptions {
        max_skipped_ratio: 0.1,
        limit_name: "maxSkippedPercent",
        ..PrepareOptions::default()
    }
}

/// A folder with some of the golden files, each under a name of its own.
fn laid_out(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden(from), to).unwrap();
    }

    folder
}

fn uri(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn prepare_golden(store: &Store, options: &PrepareOptions) -> PreparedDataset {
    prepare_files(&golden(IMAGES), &golden(TEXTS), store, options, |_| ()).unwrap()
}

/// What `cnclip prepare` makes of the golden files.
fn prepared() -> Dataset {
    let store = Store::in_memory();
    prepare_golden(&store, &options());
    Dataset::new(store).unwrap()
}

#[test]
fn a_split_is_the_data_set_that_is_prepared_of_its_files_wherever_they_are() {
    let of_file = [(IMAGES, IMAGES), (TEXTS, TEXTS)];
    let [images, pairs] = ["lmdb/train/imgs/data.mdb", "lmdb/train/pairs/data.mdb"];
    let of_databases = [(images, images), (pairs, pairs), (TEXTS, TEXTS)];
    let own_folder = [
        (images, "train/imgs/data.mdb"),
        (pairs, "train/pairs/data.mdb"),
        (TEXTS, TEXTS),
    ];

    let table = [
        (&of_file[..], "train"),
        (&of_file, "train/"),
        (&of_databases, "train"),
        (&of_databases, "lmdb/train"),
        (&of_databases, "lmdb/train/"),
        (&own_folder, "train"),
    ];

    let expected = prepared();
    for (files, name) in table {
        let folder = laid_out(files);
        let found = open_dataset(&uri(&folder, name), &options()).unwrap();
        assert_eq!(found.index(), expected.index(), "{name} of {files:?}");
        assert_eq!(found.uri(), uri(&folder, name));
        assert_eq!(
            found.read_loose_texts().unwrap(),
            expected.read_loose_texts().unwrap()
        );
        let [ours, theirs] = [&found, &expected].map(|dataset| dataset.read_shard(0).unwrap());

        assert_eq!(ours.pairs, theirs.pairs);
        assert!(ours.uri.starts_with(found.uri()), "{}", ours.uri);
    }

    // Without a file of texts, those of the pairs are all there are.
    let folder = laid_out(&of_databases[..2]);
    let found = open_dataset(&uri(&folder, "lmdb/train"), &options()).unwrap();
    assert_eq!(
        (found.index().pairs, &found.index().loose_texts),
        (16, &None)
    );
}

#[test]
fn shards_that_are_there_are_read_where_they_are() {
    let folder = laid_out(&[(IMAGES, IMAGES), (TEXTS, TEXTS)]);
    let store = Store::open(&uri(&folder, "train")).unwrap();
    let small = PrepareOptions {
        shard_bytes: 14 << 10,
        ..options()
    };

    let made = prepare_golden(&store, &small);
    let found = open_dataset(&uri(&folder, "train"), &options()).unwrap();
    assert_eq!(found.index(), &made.index);
    assert_ne!(found.index(), prepared().index());
}

#[test]
fn databases_are_preferred_where_they_are_named() {
    let files = [IMAGES, TEXTS, "lmdb/train/imgs/data.mdb"].map(|name| (name, name));
    let opens = |torn: usize, name: &str| {
        let folder = laid_out(&files);
        fs::write(folder.path().join(files[torn].1), "torn").unwrap();
        open_dataset(&uri(&folder, name), &options()).is_ok()
    };

    assert!(opens(0, "lmdb/train") && opens(2, "train"));
    assert!(!opens(2, "lmdb/train") && !opens(0, "train"));
}

/// The error of a split of which a file was changed.
fn error_of(files: &[(&str, &str)], change: impl Fn(&Path), code: u8) -> String {
    let folder = laid_out(files);
    change(folder.path());
    let error = open_dataset(&uri(&folder, "train"), &options()).unwrap_err();
    assert_eq!(error.exit().exit_code(), code, "{error}");
    let message = error.to_string();
    let place = format!("{}/", folder.path().display());

    assert!(message.contains(&place), "{message} does not name {place}");
    message.replace(&place, "")
}

#[test]
fn what_is_missing_or_wrong_is_reported_by_where_it_is() {
    let nothing = error_of(&[], |_| (), 78);
    assert!(
        nothing.starts_with("train holds no index.json"),
        "{nothing}"
    );

    assert!(
        nothing.contains("neither train_imgs.tsv nor lmdb/train"),
        "{nothing}"
    );

    let files = [(IMAGES, IMAGES), (TEXTS, TEXTS)];
    let without_texts = error_of(&files[..1], |_| (), 78);
    assert!(
        without_texts.contains("train_texts.jsonl"),
        "{without_texts}"
    );

    let write = |name: &'static str, text: &'static str| {
        move |folder: &Path| fs::write(folder.join(name), text).unwrap()
    };

    let no_image = error_of(&files, write(IMAGES, "seven"), 65);
    assert!(
        no_image.starts_with("train_imgs.tsv line 1 begins with"),
        "{no_image}"
    );

    let no_text = error_of(&files, write(TEXTS, "{}"), 65);
    assert!(no_text.starts_with("train_texts.jsonl line 1"), "{no_text}");

    let database = "lmdb/train/imgs/data.mdb";
    let torn = error_of(
        &[(database, database), (TEXTS, TEXTS)],
        write(database, "torn"),
        65,
    );

    assert!(
        torn.starts_with("lmdb/train/imgs/data.mdb cannot be used"),
        "{torn}"
    );
}

#[test]
fn too_many_skipped_records_name_the_limit_of_the_caller() {
    let folder = laid_out(&[(IMAGES, IMAGES), (TEXTS, TEXTS)]);
    let strict = PrepareOptions {
        max_skipped_ratio: 0.0,
        ..options()
    };

    let error = open_dataset(&uri(&folder, "train"), &strict)
        .unwrap_err()
        .to_string();

    assert!(
        error.contains("allow more with maxSkippedPercent"),
        "{error}"
    );

    assert!(
        error.contains(&format!("{} line", uri(&folder, TEXTS))),
        "{error}"
    );
}
