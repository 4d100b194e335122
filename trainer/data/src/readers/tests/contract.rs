//! The contract of readers: the same records give the same data set in every format, and what is wrong with a
//! source is an error that names file and place. A new format is one line in [`FORMATS`].

use std::fs;
use std::path::Path;

use super::{PNG, pickled_pair, write_database};
use crate::error::Result;
use crate::prepare::{PrepareOptions, PreparedDataset, prepare_dataset};
use crate::readers::DatasetReader;
use crate::shard::ItemId;
use crate::store::Store;

/// A format under test.
struct Format {
    /// Writes records below a folder.
    write: fn(&Path, &Records),
    open: fn(&Path) -> Result<DatasetReader>,
    /// The files of images and of texts, below the folder.
    files: [&'static str; 2],
    /// What messages call the place of the second image and of the first text, below the folder.
    locations: [&'static str; 2],
}

/// Ids and base64 of images; ids, text and image ids of texts.
struct Records {
    images: Vec<(&'static str, &'static str)>,
    texts: Vec<(u64, &'static str, Vec<&'static str>)>,
}

const FORMATS: [Format; 2] = [
    Format {
        write: write_files,
        open: |folder| {
            DatasetReader::open_files(&folder.join("imgs.tsv"), &folder.join("texts.jsonl"))
        },
        files: ["imgs.tsv", "texts.jsonl"],
        locations: ["imgs.tsv line 2", "texts.jsonl line 1"],
    },
    Format {
        write: write_databases,
        open: |folder| DatasetReader::open_lmdb(folder, None),
        files: ["imgs/data.mdb", "pairs/data.mdb"],
        locations: ["imgs key b.png", "pairs key 0"],
    },
];

fn write_files(folder: &Path, records: &Records) {
    let images = records.images.iter();
    let images: String = images
        .map(|(id, value)| format!("{id}\t{value}\n"))
        .collect();
    let texts = records.texts.iter().map(|(text_id, text, image_ids)| {
        let line = serde_json::json!({"text_id": text_id, "text": text, "image_ids": image_ids});
        format!("{line}\n")
    });

    fs::write(folder.join("imgs.tsv"), images).unwrap();
    fs::write(folder.join("texts.jsonl"), texts.collect::<String>()).unwrap();
}

fn write_databases(folder: &Path, records: &Records) {
    let images = records.images.iter();
    let mut images: Vec<_> = images
        .map(|(id, value)| ((*id).to_owned(), value.as_bytes().to_vec()))
        .collect();
    images.push(("num_images".into(), images.len().to_string().into()));

    let mut pairs = Vec::new();
    for (text_id, text, image_ids) in &records.texts {
        for image_id in image_ids {
            let image_id = ItemId::parse(image_id).unwrap();
            pairs.push((
                pairs.len().to_string(),
                pickled_pair(&image_id, text_id, text),
            ));
        }
    }

    pairs.push(("num_samples".into(), pairs.len().to_string().into()));
    write_database(folder, "imgs", &images);
    write_database(folder, "pairs", &pairs);
}

/// Records of every kind, in no order: ids that are numbers and names, an image without text, one in an
/// unknown format, a text of two images and one of white space.
fn records() -> Records {
    Records {
        images: vec![
            ("10", PNG),
            ("b.png", PNG),
            ("9", "R0lGODlh"),
            ("11", "bm90IGFuIGltYWdl"),
            ("1", PNG),
        ],
        texts: vec![
            (7, "两只猫", vec!["10", "b.png"]),
            (5, "一只狗", vec!["9"]),
            (6, " ", vec!["9"]),
            (10, "一只猫", vec!["10"]),
        ],
    }
}

fn lenient() -> PrepareOptions {
    PrepareOptions {
        max_skipped_ratio: 0.5,
        ..PrepareOptions::default()
    }
}

fn prepare(format: &Format, folder: &Path, output: &Store) -> Result<PreparedDataset> {
    prepare_dataset((format.open)(folder)?, output, &lenient(), |_| ())
}

/// The error of records that were changed, or of files that were.
fn error_of(format: &Format, records: &Records, damage: impl Fn(&Path)) -> (String, u8) {
    let folder = tempfile::tempdir().unwrap();
    (format.write)(folder.path(), records);
    damage(folder.path());
    let error = prepare(format, folder.path(), &Store::in_memory()).unwrap_err();
    let prefix = format!("{}/", folder.path().display());
    (
        error.to_string().replace(&prefix, ""),
        error.exit().exit_code(),
    )
}

/// What is skipped of records that were changed, or of files that were.
fn skipped_of(format: &Format, records: &Records, damage: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    (format.write)(folder.path(), records);
    damage(folder.path());
    let made = prepare(format, folder.path(), &Store::in_memory()).unwrap();
    let prefix = format!("{}/", folder.path().display());
    made.skipped.examples.join("; ").replace(&prefix, "")
}

#[test]
fn images_come_in_the_order_of_their_ids_with_the_bytes_that_were_put_in() {
    for format in &FORMATS {
        let folder = tempfile::tempdir().unwrap();
        (format.write)(folder.path(), &records());
        let mut reader = (format.open)(folder.path()).unwrap();
        let ids: Vec<_> = reader.images.ids().iter().map(ItemId::to_string).collect();
        assert_eq!(ids, ["1", "9", "10", "11", "b.png"]);
        assert_eq!(reader.images.read_image(1).unwrap(), b"GIF89a");
        assert!(reader.images.contains(&ItemId::parse("b.png").unwrap()));
        assert!(!reader.images.contains(&ItemId::Number(2)));

        let place = folder.path().join(format.locations[0]);
        assert_eq!(reader.images.location(4), place.display().to_string());
    }
}

#[test]
fn every_text_comes_once_with_all_of_its_images() {
    for format in &FORMATS {
        let folder = tempfile::tempdir().unwrap();
        (format.write)(folder.path(), &records());
        let mut reader = (format.open)(folder.path()).unwrap();
        let mut found = Vec::new();
        let mut each = |record: crate::readers::TextRecord| {
            let image_ids = record.image_ids.iter().map(ItemId::to_string).collect();
            found.push((record.text_id, record.text, image_ids));
            Ok(())
        };

        reader.texts.for_each_text(&mut each).unwrap();
        found.sort();
        let mut expected: Vec<(ItemId, String, Vec<String>)> = Vec::new();
        for (text_id, text, image_ids) in records().texts {
            let image_ids = image_ids.into_iter().map(str::to_owned).collect();
            expected.push((text_id.into(), text.to_owned(), image_ids));
        }

        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn all_formats_give_the_same_data_set_and_skip_the_same_records() {
    let mut first: Option<(Store, PreparedDataset)> = None;
    for format in &FORMATS {
        let folder = tempfile::tempdir().unwrap();
        (format.write)(folder.path(), &records());
        let store = Store::in_memory();
        let made = prepare(format, folder.path(), &store).unwrap();
        assert_eq!((made.index.images, made.index.pairs), (4, 4));
        assert_eq!(made.skipped.empty_texts, 1);
        assert_eq!(made.skipped.unknown_images, 1);
        assert_eq!(made.skipped.examples.iter().count(), 2);
        let source = folder.path().display().to_string();
        assert!(
            made.skipped
                .examples
                .iter()
                .all(|place| place.starts_with(&source))
        );

        let Some((first_store, first_made)) = &first else {
            first = Some((store, made));
            continue;
        };

        assert_eq!(made.index, first_made.index);
        for shard in &made.index.shards {
            let expected = first_store.get(&shard.name).unwrap();
            assert_eq!(store.get(&shard.name).unwrap(), expected);
        }
    }
}

#[test]
fn a_record_that_cannot_be_used_is_named_by_its_place() {
    for format in &FORMATS {
        let [image_place, text_place] = format.locations;
        let mut unknown = records();
        unknown.texts[0].2 = vec!["2"];
        let (message, code) = error_of(format, &unknown, |_| ());
        let expected = format!("{text_place}: text 7 names image 2, which ");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(code, 65);

        let mut broken = records();
        broken.images[1].1 = "*";
        let skipped = skipped_of(format, &broken, |_| ());
        let expected = format!("{image_place}: image b.png is not base64");
        assert!(skipped.contains(&expected), "{skipped}");
    }
}

#[test]
fn a_source_without_images_is_an_error() {
    for format in &FORMATS {
        let nothing = Records {
            images: vec![],
            texts: vec![],
        };

        let (message, code) = error_of(format, &nothing, |_| ());
        assert!(message.ends_with("holds no image"), "{message}");
        assert_eq!(code, 65);
    }
}

#[test]
fn a_missing_file_and_a_torn_one_are_named() {
    for format in &FORMATS {
        for file in format.files {
            let remove = |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
            let (message, code) = error_of(format, &records(), remove);
            assert!(
                message.starts_with(&format!("cannot open {file}")),
                "{message}"
            );
            assert_eq!(code, 78);

            let tear = |folder: &Path| {
                let bytes = fs::read(folder.join(file)).unwrap();
                fs::write(folder.join(file), &bytes[..bytes.len() - 8]).unwrap();
            };

            // The last line of a text file is one image of many; a database is torn as a whole.
            if file == "imgs.tsv" {
                let skipped = skipped_of(format, &records(), tear);
                assert!(skipped.contains("imgs.tsv line 5"), "{skipped}");
                continue;
            }

            let (message, code) = error_of(format, &records(), tear);
            assert!(message.starts_with(file), "{message}");
            assert_eq!(code, 65);
        }
    }
}
