//! Data sets in foreign formats: JSON lines, TSV with base64, LMDB with pickles.

use std::path::Path;

use cnclip_data::readers::{
    ImageReader, JsonlTexts, LmdbImages, LmdbTexts, TextReader, TsvImages, parse_pickled_pair,
};

use super::with_file;

pub(super) fn jsonl_texts(data: &[u8]) -> bool {
    with_file("texts.jsonl", data, |path| {
        let mut texts = JsonlTexts::open(path).expect("the file is there");
        read_texts(&mut texts)
    })
}

pub(super) fn tsv_images(data: &[u8]) -> bool {
    with_file("imgs.tsv", data, |path| {
        let images = TsvImages::open(path);
        images.is_ok_and(|mut images| read_images(&mut images, data.len()))
    })
}

pub(super) fn lmdb_images(data: &[u8]) -> bool {
    with_file("data.mdb", data, |path| {
        let images = LmdbImages::open(folder_of(path));
        images.is_ok_and(|mut images| read_images(&mut images, data.len()))
    })
}

pub(super) fn lmdb_texts(data: &[u8]) -> bool {
    with_file("data.mdb", data, |path| {
        let texts = LmdbTexts::open(folder_of(path));
        texts.is_ok_and(|mut texts| read_texts(&mut texts))
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("a file lies in a folder")
}

/// Reads all texts; says whether there is one, and no error.
fn read_texts(texts: &mut dyn TextReader) -> bool {
    let mut count = 0;
    let read = texts.for_each_text(&mut |_| {
        count += 1;
        Ok(())
    });

    read.is_ok() && count > 0
}

/// Reads all images, whose ids ascend and whose bytes are no more than the file has; says whether one can be read.
fn read_images(images: &mut dyn ImageReader, file_bytes: usize) -> bool {
    let ids = images.ids().to_vec();
    assert!(!ids.is_empty());
    assert!(ids.is_sorted_by(|a, b| a < b));

    let mut is_any_read = false;
    for (index, id) in ids.iter().enumerate() {
        assert!(images.contains(id));
        if let Ok(image) = images.read_image(index) {
            assert!(image.len() <= file_bytes);
            is_any_read = true;
        }
    }

    is_any_read
}

pub(super) fn pickled_pair(data: &[u8]) -> bool {
    let pair = parse_pickled_pair(data);
    assert_eq!(pair, parse_pickled_pair(data));
    pair.is_ok()
}
