use std::path::Path;

use super::{PNG, golden, pickled_pair, write_database};
use crate::prepare::{self, PrepareOptions, PreparedDataset, prepare_dataset};
use crate::readers::{DatasetReader, LmdbTexts, TextReader};
use crate::store::Store;

fn options() -> PrepareOptions {
    PrepareOptions {
        shard_bytes: 14 << 10,
        max_skipped_ratio: 0.1,
        ..PrepareOptions::default()
    }
}

fn prepare_lmdb(
    folder: &Path,
    texts: Option<&Path>,
    output: &Store,
) -> crate::error::Result<PreparedDataset> {
    let reader = DatasetReader::open_lmdb(folder, texts)?;
    prepare_dataset(reader, output, &options(), |_| ())
}

fn prepare_files(images: &Path, texts: &Path, output: &Store) -> PreparedDataset {
    prepare::tests::prepare_files(images, texts, output, &options(), |_| ()).unwrap()
}

fn pair(image: u64, text: u64, words: &str) -> Vec<u8> {
    pickled_pair(&image, &text, words)
}

/// The databases that the reference made of the golden files, in a folder of their own.
fn copied() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["imgs", "pairs"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let from = golden("lmdb/train").join(name).join("data.mdb");
        std::fs::copy(from, folder.path().join(name).join("data.mdb")).unwrap();
    }

    folder
}

fn build(folder: &Path, name: &str, entries: Vec<(&str, Vec<u8>)>) {
    let entries = entries.into_iter();
    let entries: Vec<_> = entries
        .map(|(key, value)| (key.to_owned(), value))
        .collect();

    write_database(folder, name, &entries);
}

fn same(a: (&Store, PreparedDataset), b: (&Store, PreparedDataset)) {
    assert_eq!(a.1.index, b.1.index);
    for part in a.1.index.shards.iter().chain(&a.1.index.loose_texts) {
        assert_eq!(a.0.get(&part.name).unwrap(), b.0.get(&part.name).unwrap());
    }
}

#[test]
fn the_references_databases_give_the_bytes_of_the_files_they_were_made_of() {
    let folder = copied();
    let images = golden("train_imgs.tsv");
    let texts = golden("train_texts.jsonl");
    let ours = Store::in_memory();
    let theirs = Store::in_memory();
    let found = prepare_lmdb(folder.path(), None, &ours).unwrap();

    assert_eq!(
        (
            found.index.images,
            found.index.pairs,
            found.skipped.empty_texts
        ),
        (12, 16, 1)
    );

    // Pairs hold no text without an image.
    let lines = std::fs::read_to_string(&texts).unwrap();
    let paired: String = lines
        .split_inclusive('\n')
        .filter(|line| !line.contains("[]"))
        .collect();

    let without = folder.path().join("paired.jsonl");
    std::fs::write(&without, paired).unwrap();
    let expected = prepare_files(&images, &without, &theirs);
    same((&ours, found), (&theirs, expected));

    let found = prepare_lmdb(folder.path(), Some(&texts), &ours).unwrap();
    let expected = prepare_files(&images, &texts, &theirs);
    assert!(expected.index.loose_texts.is_some());
    same((&ours, found), (&theirs, expected));
}

#[test]
fn a_torn_database_is_reported_wherever_it_ends() {
    for (name, length, expected) in [
        (
            "imgs",
            100_000,
            "imgs/data.mdb cannot be used: it ends after 100000 of 122880 bytes",
        ),
        (
            "pairs",
            4096,
            "pairs/data.mdb cannot be used: it ends after 4096 of",
        ),
        ("pairs", 100, "does not begin as LMDB files do"),
        ("imgs", 0, "does not begin as LMDB files do"),
    ] {
        let folder = copied();
        let path = folder.path().join(name).join("data.mdb");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = prepare_lmdb(folder.path(), None, &Store::in_memory());
        let error = error.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit().exit_code(), 65);
    }

    let error = prepare_lmdb(Path::new("/absent"), None, &Store::in_memory());

    let error = error.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot open /absent/imgs/data.mdb"),
        "{error}"
    );
}

#[test]
fn a_database_that_disagrees_with_itself_is_reported_with_what_to_do() {
    let images = |count: &str| vec![("7", PNG.into()), ("num_images", count.into())];
    let pairs = |count: &str, pairs: &[Vec<u8>]| {
        let mut entries: Vec<_> = ["0", "1", "2"].into_iter().zip(pairs.to_vec()).collect();
        entries.push(("num_samples", count.into()));
        entries
    };

    let good = || pairs("1", &[pair(7, 1, "猫")]);
    let table = [
        (images("1"), good(), ""),
        (
            images("2"),
            good(),
            "its num_images says 2, it holds 1: whatever built it was stopped",
        ),
        (
            images("0"),
            good(),
            "its num_images says 0, it holds 1: it was built over an older one",
        ),
        (images("many"), good(), "it has no num_images"),
        (vec![], good(), "it has no num_images"),
        (
            vec![("num_images", "0".into())],
            good(),
            "imgs holds no image",
        ),
        (
            vec![("7", b"*".to_vec()), ("num_images", "1".into())],
            good(),
            "imgs key 7: image 7 is not base64",
        ),
        (
            images("1"),
            pairs("1", &[b"?".to_vec()]),
            "pairs key 0 is no pickled (image_id",
        ),
        (
            images("1"),
            pairs("1", &[b"cposix\nsystem\n.".to_vec()]),
            "is no pickled (image_id",
        ),
        (
            images("1"),
            pairs("1", &[pair(8, 1, "猫")]),
            "key 0: text 1 names image 8, which",
        ),
        (
            images("1"),
            pairs("2", &[pair(7, 1, "猫"), pair(7, 1, "狗")]),
            "key 1: text 1 says something else than in",
        ),
        (
            images("1"),
            vec![("1", pair(7, 1, "猫")), ("num_samples", "1".into())],
            "it lacks pair 0",
        ),
    ];

    for (images, pairs, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        build(folder.path(), "imgs", images);
        build(folder.path(), "pairs", pairs);
        let made = prepare_lmdb(folder.path(), None, &Store::in_memory());

        match made {
            Ok(made) => assert_eq!((expected, made.index.pairs), ("", 1)),
            Err(error) => {
                assert!(
                    !expected.is_empty() && error.to_string().contains(expected),
                    "{expected}: {error}"
                );

                assert_eq!(error.exit().exit_code(), 65, "{error}");
            }
        }
    }
}

#[test]
fn a_database_of_several_levels_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    // Texts of more than half a page lie on pages of their own.
    let words = |number: u64| "猫".repeat(number as usize % 1500 + 1);
    let count = 1500;
    let mut pairs: Vec<_> = (0..count)
        .map(|number| (number.to_string(), pair(7, number, &words(number))))
        .collect();

    pairs.push(("num_samples".into(), count.to_string().into()));
    write_database(folder.path(), "pairs", &pairs);

    let mut texts = LmdbTexts::open(&folder.path().join("pairs")).unwrap();
    let mut found = 0;
    texts
        .for_each_text(&mut |record| {
            assert_eq!(record.text, words(found), "{found}");
            found += 1;
            Ok(())
        })
        .unwrap();

    assert_eq!(found, count);
}

#[test]
fn a_damaged_page_is_reported_and_never_followed() {
    let folder = copied();
    let path = folder.path().join("pairs/data.mdb");
    let whole = std::fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    let mut refused = 0;

    // Every number of every page's header and of its first nodes' places.
    for page in 2..pages {
        for field in (0..40).step_by(2) {
            let mut bytes = whole.clone();
            let at = page * 4096 + field;
            bytes[at..at + 2].fill(0xFF);
            std::fs::write(&path, bytes).unwrap();
            match prepare_lmdb(folder.path(), None, &Store::in_memory()) {
                // Some numbers mean nothing, or belong to pages that are free.
                Ok(_) => {}
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("pairs"), "{error}");
                    assert_eq!(error.exit().exit_code(), 65, "{error}");
                }
            }
        }
    }

    assert!(refused > 10, "{refused}");
}
