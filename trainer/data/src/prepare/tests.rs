use std::path::{Path, PathBuf};

use super::*;
use crate::shard::{Dataset, ItemId};

/// As the command does with `--images` and `--texts`.
pub(crate) fn prepare_files(
    images: &Path,
    texts: &Path,
    output: &Store,
    options: &PrepareOptions,
    progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let reader = DatasetReader::open_files(images, texts)?;
    prepare_dataset(reader, output, options, progress)
}

const PNG: &str = "iVBORw0KGgo="; // The eight bytes every PNG begins with.

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/dataset")
        .join(name)
}

fn lenient() -> PrepareOptions {
    PrepareOptions {
        max_skipped_ratio: 0.1,
        ..PrepareOptions::default()
    }
}

fn prepare_golden(store: &Store, options: &PrepareOptions) -> Result<PreparedDataset> {
    let images = golden("train_imgs.tsv");
    let texts = golden("train_texts.jsonl");
    prepare_files(&images, &texts, store, options, |_| ())
}

/// Prepares files of this content.
fn made_of(images: &str, texts: &str) -> Result<PreparedDataset> {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["imgs.tsv", "texts.jsonl"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], images).unwrap();
    std::fs::write(&paths[1], texts).unwrap();

    prepare_files(
        &paths[0],
        &paths[1],
        &Store::in_memory(),
        &PrepareOptions::default(),
        |_| (),
    )
}

#[test]
fn the_golden_files_become_sixteen_pairs_in_the_order_of_their_numbers() {
    let store = Store::in_memory();
    let mut last = None;
    let images = golden("train_imgs.tsv");
    let texts = golden("train_texts.jsonl");
    let prepared = prepare_files(&images, &texts, &store, &lenient(), |p| last = Some(p)).unwrap();

    // 18 in the reference, which keeps the two pairs of the empty text.
    assert_eq!((prepared.index.images, prepared.index.pairs), (12, 16));
    assert_eq!(
        (
            prepared.skipped.empty_texts,
            prepared.skipped.unknown_images
        ),
        (1, 0)
    );

    assert_eq!(last.map(|p| (p.done, p.total)), Some((12, 12)));

    let shard = Dataset::new(store).unwrap().read_shard(0).unwrap();
    let ids: Vec<_> = shard
        .samples
        .iter()
        .map(|sample| sample.image_id.clone())
        .collect();

    let expected = [1, 2, 3, 7, 10, 11, 20, 99, 100, 101, 1000, 12_345_678_901];
    assert_eq!(ids, expected.map(ItemId::from));
    let of = |place: usize| {
        let texts = shard.samples[place].texts.iter();
        texts
            .map(|text| (text.text_id.to_string(), text.text.as_str()))
            .collect::<Vec<_>>()
    };

    assert_eq!(
        of(9),
        [
            ("100".into(), "女生举手"),
            ("500".into(), "“引号”与 Mixed CASE 文本")
        ]
    );

    assert_eq!(
        of(11)
            .iter()
            .map(|(text_id, _)| text_id.as_str())
            .collect::<Vec<_>>(),
        ["7", "101"]
    );
}

#[test]
fn the_same_files_give_the_same_bytes_and_the_index_can_be_made_again_from_the_shards() {
    let first = Store::in_memory();
    let second = Store::in_memory();
    let small = PrepareOptions {
        shard_bytes: 8 << 10,
        ..lenient()
    };

    let prepared = prepare_golden(&first, &small).unwrap();
    assert_eq!(
        prepared.index,
        prepare_golden(&second, &small).unwrap().index
    );

    for part in &prepared.index.shards {
        assert_eq!(
            first.get(&part.name).unwrap(),
            second.get(&part.name).unwrap()
        );
    }

    second.delete(INDEX_FILE).unwrap();
    assert_eq!(
        index_shards(&second, &small, |_| ()).unwrap().index,
        prepared.index
    );

    assert_eq!(ShardIndex::read_from(&second).unwrap(), prepared.index);
}

#[test]
fn images_and_texts_that_have_names_keep_them() {
    let images = format!("b.png\t{PNG}\n012\t{PNG}\n7\t{PNG}\n图/猫.png\t{PNG}\n");
    let texts = "{\"text_id\": \"t\", \"text\": \"猫\", \"image_ids\": [\"7\", \"图/猫.png\"]}\n";
    let folder = tempfile::tempdir().unwrap();
    let paths = ["imgs.tsv", "texts.jsonl"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], images).unwrap();
    std::fs::write(&paths[1], texts).unwrap();
    let store = Store::in_memory();

    prepare_files(
        &paths[0],
        &paths[1],
        &store,
        &PrepareOptions::default(),
        |_| (),
    )
    .unwrap();
    let shard = Dataset::new(store).unwrap().read_shard(0).unwrap();
    let of = |s: &crate::shard::Sample| (s.image_id.to_string(), s.key.clone(), s.texts.len());
    let expected = [
        ("7", "000000000007", 1),
        ("012", "named-000000000001", 0),
        ("b.png", "named-000000000002", 0),
        ("图/猫.png", "named-000000000003", 1),
    ];

    let expected = expected.map(|(id, key, texts)| (id.to_owned(), key.to_owned(), texts));
    assert_eq!(shard.samples.iter().map(of).collect::<Vec<_>>(), expected);
}

#[test]
fn a_preparation_that_fails_leaves_no_data_set() {
    let store = Store::in_memory();
    prepare_golden(&store, &lenient()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("imgs.tsv");
    std::fs::write(&images, format!("1\t{PNG}\n2\tnot base64!\n")).unwrap();
    let texts = folder.path().join("texts.jsonl");

    std::fs::write(&texts, "").unwrap();
    prepare_files(&images, &texts, &store, &lenient(), |_| ()).unwrap_err();
    assert_eq!(store.get_if_exists(INDEX_FILE).unwrap(), None);
}

#[test]
fn a_line_that_cannot_be_used_is_named_with_what_to_do() {
    let good = format!("7\t{PNG}\n");
    let text = |id: &str, images: &str| {
        format!("{{\"text_id\": {id}, \"text\": \"猫\", \"image_ids\": [{images}]}}\n")
    };

    let table = [
        (
            format!("{good}\t{PNG}\n"),
            text("1", "7"),
            "line 2 begins with \"\\t",
        ),
        (
            format!("{good}8 {PNG}\n"),
            text("1", "7"),
            "expected the id of the image",
        ),
        (
            format!("8\t{PNG}\n{good}7\tAAAA\n"),
            text("1", "7"),
            "image 7 twice, on lines 2 and 3, with different bytes",
        ),
        (
            format!("{good}8\t*\n"),
            text("1", "7"),
            "line 2: image 8 is not base64",
        ),
        (String::new(), text("1", "7"), "holds no image"),
        (
            good.clone(),
            text("1", "7") + &text("2", "9"),
            "line 2: text 2 names image 9",
        ),
        (
            good.clone(),
            text("1.5", "7"),
            "line 1, column 15: invalid type: floating point `1.5`",
        ),
        (
            good.clone(),
            text("1", "7") + "{",
            "line 2, column 1: EOF while parsing",
        ),
        (
            good.clone(),
            text("1", "-7"),
            "invalid value: integer `-7`, expected a whole number from 0 or a name",
        ),
        (
            good.clone(),
            text("1", "7").replace('猫', " "),
            "1 of 1 texts cannot be used",
        ),
        (
            "7\tbm90IGEgcGljdHVyZQ==\n".into(),
            text("1", "7"),
            "1 of 1 images cannot be used",
        ),
    ];

    for (images, texts, message) in table {
        let error = made_of(&images, &texts).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.exit().exit_code(), 65, "{error}");
    }
}

#[test]
fn what_other_programs_write_is_read() {
    // Python's `encodebytes` breaks lines, which a table has as blanks; the last bits of some encoders are not zero.
    let broken = format!("{} {}", &PNG[..8], &PNG[8..]);
    let images = format!("\u{FEFF}7\t{PNG}\r\n7\t{PNG}\n8\t{broken}\n");
    let text = |id: u32, image: u32| {
        format!(
            "{{\"text_id\": {id}, \"text\": \"猫\", \"image_ids\": [{image}], \"score\": NaN}}\n"
        )
    };

    let texts = format!("\u{FEFF}{}{}{}", text(1, 7), text(1, 7), text(2, 8));
    let made = made_of(&images, &texts).unwrap();
    assert_eq!((made.index.images, made.index.pairs), (2, 2));

    // Each caption with the id of its image.
    let texts = format!("{}{}", text(7, 7), text(7, 7).replace('猫', "狗"));
    assert_eq!(made_of(&images, &texts).unwrap().index.pairs, 2);
}

/// The index of one shard of files, and the error without one.
fn indexed(files: &[(&str, &[u8])]) -> Result<PreparedDataset> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }

    let store = Store::in_memory();
    store.put("0.tar", tar.into_inner().unwrap().into())?;
    store.put("._0.tar", "\0\x05\x16\x07".into())?;
    index_shards(&store, &PrepareOptions::default(), |_| ())
}

#[test]
fn shards_that_hold_less_than_they_seem_to_are_not_indexed_in_silence() {
    let images_alone = indexed(&[("1.png", b"1"), ("1.cls", b"0")]).unwrap();
    assert_eq!(
        (images_alone.index.images, images_alone.index.pairs),
        (1, 0)
    );

    type Files = &'static [(&'static str, &'static [u8])];
    let table: [(Files, &str); 3] = [
        (
            &[("1.tif", b"1"), ("1.txt", b"x")],
            "hold no image: files that are no part of a sample are .tif (1), .txt (1)",
        ),
        (
            &[("1.png", b"1"), ("1.txt", b"")],
            "1 of 1 texts cannot be used",
        ),
        (
            &[("1.png", b"1"), ("2.png", b"1"), ("1.txt", b"x")],
            "sample 1 do not lie together",
        ),
    ];

    for (files, message) in table {
        let error = indexed(files).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.exit().exit_code(), 65);
    }
}

#[test]
fn compressed_shards_are_named() {
    for (name, words) in [("0.tar.gz", "1 shards are compressed"), ("0.tar", "gunzip")] {
        let store = Store::in_memory();
        store.put(name, vec![0x1F, 0x8B, 8, 0].into()).unwrap();
        let error = index_shards(&store, &PrepareOptions::default(), |_| ()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = prepare_files(
        Path::new("/absent/imgs.tsv"),
        Path::new("/absent/texts.jsonl"),
        &Store::in_memory(),
        &PrepareOptions::default(),
        |_| (),
    );

    let error = error.unwrap_err();
    assert!(
        error.to_string().contains("cannot open /absent/imgs.tsv"),
        "{error}"
    );

    assert_eq!(error.exit().exit_code(), 78);
}

#[test]
fn an_index_is_not_made_of_torn_shards_or_of_none() {
    let store = Store::in_memory();
    let error = index_shards(&store, &PrepareOptions::default(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("holds no .tar"), "{error}");

    prepare_golden(&store, &lenient()).unwrap();
    let bytes = store.get("00000.tar").unwrap();
    store
        .put("00000.tar", bytes.slice(..bytes.len() - 4000))
        .unwrap();

    let error = index_shards(&store, &PrepareOptions::default(), |_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("00000.tar cannot be used, after 11 samples: it ends inside a file"),
        "{error}"
    );
}
