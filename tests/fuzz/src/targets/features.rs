//! Feature files, relevance files and texts to embed.

use cnclip::interop::embed::read_text_file;
use cnclip::interop::score::score_feature_files;

use super::with_file;

/// Between the three files of one input.
const SEPARATOR: &[u8] = b"\n---\n";

/// Images, texts and, if there is a third part, relevance.
pub(super) fn feature_files(data: &[u8]) {
    let (images, rest) = split_once(data, SEPARATOR);
    let (texts, relevance) = split_once(rest.unwrap_or_default(), SEPARATOR);

    with_file("images.jsonl", images, |images| {
        with_file("texts.jsonl", texts, |texts| {
            let score = |relevance: Option<&std::path::Path>| {
                let found = score_feature_files(images, texts, relevance).ok()?;
                assert_eq!(
                    found.retrieval.text_to_image.nearest.len(),
                    found.texts.len()
                );
                Some(found)
            };

            match relevance {
                Some(relevance) => with_file("relevance.jsonl", relevance, |path| {
                    score(Some(path));
                }),
                None => drop(score(None)),
            }
        });
    });
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

pub(super) fn text_file(data: &[u8]) {
    with_file("texts.jsonl", data, |path| {
        let _ = read_text_file(path);
    });
}
