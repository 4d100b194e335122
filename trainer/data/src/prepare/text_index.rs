//! The texts of a data set by image, checked against the images that there are. Never changes a text.

use serde::Serialize;

use super::SkippedRecords;
use crate::error::{Error, Result};
use crate::readers::{ImageReader, TextReader, TextRecord};
use crate::shard::ItemId;

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
    /// In the order of their ids.
    texts: Vec<(ItemId, String)>,
    /// From images to texts, sorted.
    links: Vec<ImageTextLink>,
    /// Indices of the texts that belong to no image.
    loose: Vec<u32>,
}

/// That a text describes an image.
///
/// A sorted list of links takes far less memory than a map from images to lists of texts, and large data sets have
/// hundreds of millions of links.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ImageTextLink {
    image_id: ItemId,
    /// Index in `texts`.
    text: u32,
}

impl TextIndex {
    /// Reads all texts; every image that they name must be there.
    ///
    /// # Errors
    /// A text of an unknown image or with the id of another text, and those of the reader.
    pub(super) fn read(
        reader: &mut dyn TextReader,
        images: &dyn ImageReader,
        skipped: &mut SkippedRecords,
    ) -> Result<Self> {
        let source = reader.source();
        let unit = reader.record_unit();
        let mut total_read = 0;
        let mut records = Vec::new();

        reader.for_each_text(&mut |record| {
            let location = || format!("{source} {unit} {}", record.number);
            check_image_ids(&record, images, location)?;
            total_read += 1;
            // White space has no tokens: all such samples would have one and the same text embedding.
            if record.text.trim().is_empty() {
                skipped.empty_texts += 1;
                skipped.examples.push_with(location);
            } else {
                records.push(record);
            }

            Ok(())
        })?;

        records.sort_by(|a, b| (&a.text_id, a.number).cmp(&(&b.text_id, b.number)));
        merge_equal_records(&mut records, &source, unit);
        Ok(Self::from_sorted(records, total_read))
    }

    fn from_sorted(records: Vec<TextRecord>, total_read: u64) -> Self {
        let mut index = Self {
            total_read,
            texts: Vec::with_capacity(records.len()),
            links: vec![],
            loose: vec![],
        };

        for (text, record) in (0..).zip(records) {
            if record.image_ids.is_empty() {
                index.loose.push(text);
            }

            let image_ids = record.image_ids.into_iter();
            index
                .links
                .extend(image_ids.map(|image_id| ImageTextLink { image_id, text }));
            index.texts.push((record.text_id, record.text));
        }

        // A pair that a database has twice is one pair.
        index.links.sort_unstable();
        index.links.dedup();
        index
    }

    /// The texts of an image, in the order of their ids.
    pub(super) fn texts_of_image(&self, image_id: &ItemId) -> Vec<TextWithId<'_>> {
        let start = self.links.partition_point(|link| link.image_id < *image_id);
        let links = self.links[start..]
            .iter()
            .take_while(|link| link.image_id == *image_id);

        links.map(|link| self.text_at(link.text)).collect()
    }

    /// The texts that belong to no image, a JSON object a line.
    pub(super) fn loose_jsonl(&self) -> String {
        let line = |index: &u32| {
            let TextWithId { text_id, text } = self.text_at(*index);
            format!(
                "{}\n",
                serde_json::json!({"text_id": text_id, "text": text})
            )
        };

        self.loose.iter().map(line).collect()
    }

    fn text_at(&self, index: u32) -> TextWithId<'_> {
        let (text_id, text) = &self.texts[index as usize];
        TextWithId { text_id, text }
    }
}

fn check_image_ids(
    record: &TextRecord,
    images: &dyn ImageReader,
    location: impl FnOnce() -> String,
) -> Result<()> {
    let mut image_ids = record.image_ids.iter();
    let Some(unknown) = image_ids.find(|image_id| !images.contains(image_id)) else {
        return Ok(());
    };

    Err(Error::Data(format!(
        "{}: text {} names image {unknown}, which {} does not hold. Add the image or remove its number.",
        location(),
        record.text_id,
        images.source()
    )))
}

/// Keeps the first of records that say the same. Others of one id stay apart, as the reference reads them: helpers give
/// each caption the id of its image.
fn merge_equal_records(records: &mut Vec<TextRecord>, source: &str, unit: &str) {
    records
        .dedup_by(|a, b| a.text_id == b.text_id && a.text == b.text && a.image_ids == b.image_ids);

    let repeated = records
        .windows(2)
        .find(|pair| pair[0].text_id == pair[1].text_id);

    if let Some([first, second]) = repeated {
        tracing::warn!(
            "{source} gives text {} twice: {unit} {} and {unit} {}. Both are trained on; for an evaluation give each \
             text its own text_id, one text may name several images",
            first.text_id,
            first.number,
            second.number
        );
    }
}
