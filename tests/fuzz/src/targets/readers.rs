//! Data sets in foreign formats: JSON lines, TSV with base64, LMDB with pickles.

use std::path::Path;

use cnclip_data::readers::{
    ImageReader, JsonlTexts, LmdbImages, LmdbTexts, TextReader, TsvImages, parse_pickled_pair,
};

use super::with_file;

pub(super) fn jsonl_texts(data: &[u8]) {
    with_file("texts.jsonl", data, |path| {
        let mut texts = JsonlTexts::open(path).expect("the file is there");
        read_texts(&mut texts);
    });
}

pub(super) fn tsv_images(data: &[u8]) {
    with_file("imgs.tsv", data, |path| {
        if let Ok(mut images) = TsvImages::open(path) {
            read_images(&mut images, data.len());
        }
    });
}

pub(super) fn lmdb_images(data: &[u8]) {
    with_file("data.mdb", data, |path| {
        if let Ok(mut images) = LmdbImages::open(folder_of(path)) {
            read_images(&mut images, data.len());
        }
    });
}

pub(super) fn lmdb_texts(data: &[u8]) {
    with_file("data.mdb", data, |path| {
        if let Ok(mut texts) = LmdbTexts::open(folder_of(path)) {
            read_texts(&mut texts);
        }
    });
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("a file lies in a folder")
}

fn read_texts(texts: &mut dyn TextReader) {
    let mut last = None;
    let _ = texts.for_each_text(&mut |record| {
        last = Some(record.number);
        Ok(())
    });
}

/// Reads all images, whose ids ascend and whose bytes are no more than the file has.
fn read_images(images: &mut dyn ImageReader, file_bytes: usize) {
    let ids = images.ids().to_vec();
    assert!(!ids.is_empty());
    assert!(ids.is_sorted_by(|a, b| a < b));

    for (index, id) in ids.iter().enumerate() {
        assert!(images.contains(id));
        if let Ok(image) = images.read_image(index) {
            assert!(image.len() <= file_bytes);
        }
    }
}

pub(super) fn pickled_pair(data: &[u8]) {
    let pair = parse_pickled_pair(data);
    assert_eq!(pair, parse_pickled_pair(data));
}
