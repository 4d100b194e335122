//! Feature files, relevance files, texts to embed, and the files of a classification.

use std::path::Path;

use cnclip::evaluate::zero_shot::PreparedZeroShot;
use cnclip::interop::embed::read_text_file;
use cnclip::interop::score::score_feature_files;

use cnclip_crds::tasks::ZeroShotConfig;
use cnclip_data::store::Store;

use super::with_file;

/// Between the three files of one input.
const SEPARATOR: &[u8] = b"\n---\n";

/// Images, texts and, if there is a third part, relevance.
pub(super) fn feature_files(data: &[u8]) -> bool {
    let (images, rest) = split_once(data, SEPARATOR);
    let (texts, relevance) = split_once(rest.unwrap_or_default(), SEPARATOR);

    with_file("images.jsonl", images, |images| {
        with_file("texts.jsonl", texts, |texts| {
            let score = |relevance: Option<&Path>| {
                let Ok(found) = score_feature_files(images, texts, relevance) else {
                    return false;
                };

                let nearest = &found.retrieval.text_to_image.nearest;
                assert_eq!(nearest.len(), found.texts.len());
                true
            };

            match relevance {
                Some(relevance) => {
                    with_file("relevance.jsonl", relevance, |path| score(Some(path)))
                }
                None => score(None),
            }
        })
    })
}

fn split_once<'a>(data: &'a [u8], separator: &[u8]) -> (&'a [u8], Option<&'a [u8]>) {
    let at = data
        .windows(separator.len())
        .position(|window| window == separator);

    match at {
        Some(at) => (&data[..at], Some(&data[at + separator.len()..])),
        None => (data, None),
    }
}

pub(super) fn text_file(data: &[u8]) -> bool {
    with_file("texts.jsonl", data, |path| {
        read_text_file(path).is_ok_and(|texts| !texts.is_empty())
    })
}

/// Names of the classes, the order of a submission, and labels of images with several classes.
pub(super) fn class_files(data: &[u8]) -> bool {
    let (names, rest) = split_once(data, SEPARATOR);
    let (order, labels) = split_once(rest.unwrap_or_default(), SEPARATOR);
    let store = Store::in_memory();
    super::put(&store, "label_cn.txt", names);
    super::put(&store, "index.json", order);
    super::put(&store, "test_labels.jsonl", labels.unwrap_or_default());
    for image in ["test/0/a.jpg", "test/1/b.jpg", "test/1/c.jpg"] {
        super::put(&store, image, b"an image");
    }

    let config = ZeroShotConfig {
        dataset: String::new(),
        preset: None,
        template_set: None,
        templates: None,
        metric: None,
    };

    let Ok(prepared) = PreparedZeroShot::from_store("task", &config, store) else {
        return false;
    };

    let classes = prepared.classes.len();
    let mut labels = prepared.labels.iter().flatten();
    assert_eq!((prepared.files.len(), prepared.labels.len()), (3, 3));
    assert!(labels.all(|&class| class < classes));

    let mut order = prepared.order.unwrap_or_default();
    order.sort_unstable();
    assert!(order.is_empty() || order == [0, 1, 2]);
    true
}
