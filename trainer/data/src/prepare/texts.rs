//! Which texts belong to an image, as the reference's text file says (a JSON object a line with
//! `text_id`, `text` and `image_ids`) or its database of pairs. Never changes a text.

mod pairs;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Skipped;
use super::images::Images;
use crate::error::{Error, Result};
use crate::jsonl::Lines;
use crate::shard::Id;

const EXPECTED: &str = "{\"text_id\": 1, \"text\": \"…\", \"image_ids\": [2, 3]}";

/// A text and its images.
#[derive(Deserialize)]
struct Line {
    text_id: Id,
    text: String,
    image_ids: Vec<Id>,
}

/// A text as it is written beside an image.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Numbered<'a> {
    text_id: &'a Id,
    text: &'a str,
}

/// The texts of a data set.
pub(super) struct Texts {
    /// Texts read, the skipped ones too.
    pub(super) read: u64,
    /// In the order of what they are called.
    texts: Vec<(Id, String)>,
    /// `(image, place of the text)`, sorted.
    edges: Vec<(Id, u32)>,
    loose: Vec<u32>,
}

impl Texts {
    /// Reads all texts of a file; every image they name must be there.
    pub(super) fn read(path: &Path, images: &Images, skipped: &mut Skipped) -> Result<Self> {
        let mut found = Vec::new();
        Lines::open(path, EXPECTED)?.each(|place, line: Line| -> Result<()> {
            known(&place, &line, images)?;
            found.push((place.number, line));
            Ok(())
        })?;

        Self::of((path, "line"), found, skipped)
    }

    /// Reads all texts of a database of pairs; every image they name must be there.
    pub(super) fn read_pairs(path: &Path, images: &Images, skipped: &mut Skipped) -> Result<Self> {
        let found = pairs::read(path)?;
        found.iter().try_for_each(|(number, line)| {
            known(
                &format_args!("{} key {number}", path.display()),
                line,
                images,
            )
        })?;

        Self::of((path, "key"), found, skipped)
    }

    /// Texts and the numbers of what they were read from: lines or keys.
    fn of(
        (path, word): (&Path, &str),
        found: Vec<(u64, Line)>,
        skipped: &mut Skipped,
    ) -> Result<Self> {
        let read = found.len() as u64;
        let mut kept = Vec::with_capacity(found.len());
        for (number, line) in found {
            match line.text.trim().is_empty() {
                true => {
                    skipped.empty_texts += 1;
                    skipped.example(|| format!("{} {word} {number}", path.display()));
                }
                false => kept.push((number, line)),
            }
        }

        refuse_twice((path, word), &kept)?;
        kept.sort_by(|(_, a), (_, b)| a.text_id.cmp(&b.text_id));
        Ok(Self::new(read, kept.into_iter().map(|(_, line)| line)))
    }

    fn new(read: u64, lines: impl Iterator<Item = Line>) -> Self {
        let mut texts = Self {
            read,
            texts: vec![],
            edges: vec![],
            loose: vec![],
        };

        for (place, line) in (0..).zip(lines) {
            if line.image_ids.is_empty() {
                texts.loose.push(place);
            }

            texts
                .edges
                .extend(line.image_ids.into_iter().map(|image_id| (image_id, place)));

            texts.texts.push((line.text_id, line.text));
        }

        texts.edges.sort_unstable();
        texts.edges.dedup();
        texts
    }

    /// The texts of an image, in the order of what they are called.
    pub(super) fn of_image(&self, image_id: &Id) -> Vec<Numbered<'_>> {
        let start = self.edges.partition_point(|(image, _)| image < image_id);
        let edges = self.edges[start..]
            .iter()
            .take_while(|(image, _)| image == image_id);

        edges.map(|(_, place)| self.numbered(*place)).collect()
    }

    /// The texts that belong to no image, a JSON object a line.
    pub(super) fn loose(&self) -> String {
        let line = |place: &u32| {
            let Numbered { text_id, text } = self.numbered(*place);
            format!(
                "{}\n",
                serde_json::json!({"text_id": text_id, "text": text})
            )
        };

        self.loose.iter().map(line).collect()
    }

    fn numbered(&self, place: u32) -> Numbered<'_> {
        let (text_id, text) = &self.texts[place as usize];
        Numbered { text_id, text }
    }
}

fn known(place: &impl Display, line: &Line, images: &Images) -> Result<()> {
    match line
        .image_ids
        .iter()
        .find(|image_id| !images.contains(image_id))
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

fn refuse_twice((path, word): (&Path, &str), lines: &[(u64, Line)]) -> Result<()> {
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
