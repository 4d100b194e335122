//! Which texts belong to an image, as the reference's text file says (a JSON object a line with
//! `text_id`, `text` and `image_ids`) or its database of pairs. Never changes a text.

mod pairs_lmdb;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SkippedRecords;
use super::image_source::ImageSource;
use crate::error::{Error, Result};
use crate::jsonl::JsonLines;
use crate::shard::ItemId;

const EXPECTED_LINE: &str = "{\"text_id\": 1, \"text\": \"…\", \"image_ids\": [2, 3]}";

/// A text and its images.
#[derive(Deserialize)]
struct TextRecord {
    text_id: ItemId,
    text: String,
    image_ids: Vec<ItemId>,
}

/// A text as it is written beside an image.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct TextWithId<'a> {
    text_id: &'a ItemId,
    text: &'a str,
}

/// The texts of a data set.
pub(super) struct TextIndex {
    /// Texts read, the skipped ones too.
    pub(super) total_read: u64,
    /// In the order of what they are called.
    texts: Vec<(ItemId, String)>,
    /// `(image, place of the text)`, sorted.
    image_edges: Vec<(ItemId, u32)>,
    loose: Vec<u32>,
}

impl TextIndex {
    /// Reads all texts of a file; every image they name must be there.
    pub(super) fn read_jsonl(
        path: &Path,
        images: &ImageSource,
        skipped: &mut SkippedRecords,
    ) -> Result<Self> {
        let mut found = Vec::new();
        JsonLines::open(path, EXPECTED_LINE)?.for_each(
            |place, line: TextRecord| -> Result<()> {
                check_image_ids(&place, &line, images)?;
                found.push((place.number, line));
                Ok(())
            },
        )?;

        Self::from_records((path, "line"), found, skipped)
    }

    /// Reads all texts of a database of pairs; every image they name must be there.
    pub(super) fn read_lmdb(
        path: &Path,
        images: &ImageSource,
        skipped: &mut SkippedRecords,
    ) -> Result<Self> {
        let found = pairs_lmdb::read_text_records(path)?;
        found.iter().try_for_each(|(number, line)| {
            check_image_ids(
                &format_args!("{} key {number}", path.display()),
                line,
                images,
            )
        })?;

        Self::from_records((path, "key"), found, skipped)
    }

    /// Texts and the numbers of what they were read from: lines or keys.
    fn from_records(
        (path, word): (&Path, &str),
        found: Vec<(u64, TextRecord)>,
        skipped: &mut SkippedRecords,
    ) -> Result<Self> {
        let read = found.len() as u64;
        let mut kept = Vec::with_capacity(found.len());
        for (number, line) in found {
            match line.text.trim().is_empty() {
                true => {
                    skipped.empty_texts += 1;
                    skipped.add_example(|| format!("{} {word} {number}", path.display()));
                }
                false => kept.push((number, line)),
            }
        }

        check_duplicate_ids((path, word), &kept)?;
        kept.sort_by(|(_, a), (_, b)| a.text_id.cmp(&b.text_id));
        Ok(Self::new(read, kept.into_iter().map(|(_, line)| line)))
    }

    fn new(read: u64, lines: impl Iterator<Item = TextRecord>) -> Self {
        let mut texts = Self {
            total_read: read,
            texts: vec![],
            image_edges: vec![],
            loose: vec![],
        };

        for (place, line) in (0..).zip(lines) {
            if line.image_ids.is_empty() {
                texts.loose.push(place);
            }

            texts
                .image_edges
                .extend(line.image_ids.into_iter().map(|image_id| (image_id, place)));

            texts.texts.push((line.text_id, line.text));
        }

        texts.image_edges.sort_unstable();
        texts.image_edges.dedup();
        texts
    }

    /// The texts of an image, in the order of what they are called.
    pub(super) fn texts_of_image(&self, image_id: &ItemId) -> Vec<TextWithId<'_>> {
        let start = self
            .image_edges
            .partition_point(|(image, _)| image < image_id);
        let edges = self.image_edges[start..]
            .iter()
            .take_while(|(image, _)| image == image_id);

        edges.map(|(_, place)| self.text_at(*place)).collect()
    }

    /// The texts that belong to no image, a JSON object a line.
    pub(super) fn loose_jsonl(&self) -> String {
        let line = |place: &u32| {
            let TextWithId { text_id, text } = self.text_at(*place);
            format!(
                "{}\n",
                serde_json::json!({"text_id": text_id, "text": text})
            )
        };

        self.loose.iter().map(line).collect()
    }

    fn text_at(&self, place: u32) -> TextWithId<'_> {
        let (text_id, text) = &self.texts[place as usize];
        TextWithId { text_id, text }
    }
}

fn check_image_ids(place: &impl Display, line: &TextRecord, images: &ImageSource) -> Result<()> {
    match line
        .image_ids
        .iter()
        .find(|image_id| !images.contains_id(image_id))
    {
        Some(unknown) => Err(Error::Data(format!(
            "{place}: text {} names image {unknown}, which {} does not hold. Add the image or \
             remove its number.",
            line.text_id,
            images.name()
        ))),
        None => Ok(()),
    }
}

fn check_duplicate_ids((path, word): (&Path, &str), lines: &[(u64, TextRecord)]) -> Result<()> {
    let mut seen = HashMap::with_capacity(lines.len());
    for (number, line) in lines {
        if let Some(first) = seen.insert(&line.text_id, number) {
            return Err(Error::Data(format!(
                "{} gives text {} twice: {word} {first} and {word} {number}. Give each text its own \
                 text_id; one text may name several images.",
                path.display(),
                line.text_id
            )));
        }
    }

    Ok(())
}
