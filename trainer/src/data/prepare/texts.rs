//! Reads the reference's text file (a JSON object a line with `text_id`, `text` and `image_ids`)
//! and says which texts belong to an image. Never changes a text.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Skipped;
use super::images::Images;
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Line {
    text_id: u64,
    text: String,
    image_ids: Vec<u64>,
}

/// A text as it is written beside an image.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Numbered<'a> {
    text_id: u64,
    text: &'a str,
}

/// The texts of a data set.
pub(super) struct Texts {
    /// Lines read, the skipped ones too.
    pub(super) lines: u64,
    /// In the order of their numbers.
    texts: Vec<(u64, String)>,
    /// `(image number, place of the text)`, sorted.
    edges: Vec<(u64, u32)>,
    loose: Vec<u32>,
}

impl Texts {
    /// Reads all texts; every image they name must be there.
    pub(super) fn read(path: &Path, images: &Images, skipped: &mut Skipped) -> Result<Self> {
        let file = BufReader::new(File::open(path).map_err(Error::file("open", path))?);
        let mut lines: Vec<(u64, Line)> = Vec::new();
        let mut count = 0;
        for (number, text) in (1..).zip(file.lines()) {
            let text = text.map_err(Error::file("read", path))?;
            if text.trim().is_empty() {
                continue;
            }
            count += 1;
            let line = parse(path, number, &text, images)?;
            match line.text.trim().is_empty() {
                true => {
                    skipped.empty_texts += 1;
                    skipped.example(|| format!("{} line {number}", path.display()));
                }
                false => lines.push((number, line)),
            }
        }
        refuse_twice(path, &lines)?;
        lines.sort_by_key(|(_, line)| line.text_id);
        Ok(Self::new(count, lines.into_iter().map(|(_, line)| line)))
    }

    fn new(count: u64, lines: impl Iterator<Item = Line>) -> Self {
        let mut texts = Self { lines: count, texts: vec![], edges: vec![], loose: vec![] };
        for (place, line) in (0..).zip(lines) {
            if line.image_ids.is_empty() {
                texts.loose.push(place);
            }
            texts.edges.extend(line.image_ids.iter().map(|image_id| (*image_id, place)));
            texts.texts.push((line.text_id, line.text));
        }
        texts.edges.sort_unstable();
        texts.edges.dedup();
        texts
    }

    /// The texts of an image, in the order of their numbers.
    pub(super) fn of_image(&self, image_id: u64) -> Vec<Numbered<'_>> {
        let start = self.edges.partition_point(|(image, _)| *image < image_id);
        let edges = self.edges[start..].iter().take_while(|(image, _)| *image == image_id);
        edges.map(|(_, place)| self.numbered(*place)).collect()
    }

    /// The texts that belong to no image, a JSON object a line.
    pub(super) fn loose(&self) -> String {
        let line = |place: &u32| {
            let Numbered { text_id, text } = self.numbered(*place);
            format!("{}\n", serde_json::json!({"text_id": text_id, "text": text}))
        };
        self.loose.iter().map(line).collect()
    }

    fn numbered(&self, place: u32) -> Numbered<'_> {
        let (text_id, text) = &self.texts[place as usize];
        Numbered { text_id: *text_id, text }
    }
}

fn parse(path: &Path, number: u64, text: &str, images: &Images) -> Result<Line> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        Error::Data(format!(
            "{} line {number}: {error}. Expected {{\"text_id\": 1, \"text\": \"…\", \
             \"image_ids\": [2, 3]}} with whole numbers.",
            path.display()
        ))
    })?;
    match line.image_ids.iter().find(|image_id| !images.contains(**image_id)) {
        Some(unknown) => Err(Error::Data(format!(
            "{} line {number}: text {} names image {unknown}, which {} does not hold. Add the \
             image or remove its number.",
            path.display(),
            line.text_id,
            images.name()
        ))),
        None => Ok(line),
    }
}

fn refuse_twice(path: &Path, lines: &[(u64, Line)]) -> Result<()> {
    let mut seen = HashMap::with_capacity(lines.len());
    for (number, line) in lines {
        if let Some(first) = seen.insert(line.text_id, *number) {
            return Err(Error::Data(format!(
                "{} gives text {} twice, on lines {first} and {number}. Give each text its own \
                 text_id; one text may name several images.",
                path.display(),
                line.text_id
            )));
        }
    }
    Ok(())
}
