//! Makes a data set of shards from the reference's files, or an index beside shards that are there.
//! Decides which lines can be used; never decodes a picture, and never changes one.

mod image_source;
mod lmdb;
mod shard_writer;
mod texts;

use std::path::Path;

use super::shard::{INDEX_FILE, IndexedFile, ShardIndex, read_tar};
use crate::error::{Error, Result};
use crate::store::Store;
pub use image_source::ImageSource;
use shard_writer::ShardWriter;
use texts::TextIndex;

/// The file of texts that belong to no image.
const LOOSE_TEXTS_FILE: &str = "loose_texts.jsonl";

/// How a data set is made.
#[derive(Clone, Copy, Debug)]
pub struct PrepareOptions {
    /// A shard is closed when it has grown to this size.
    pub shard_bytes: u64,
    /// The largest share of the images, and of the texts, that may be unusable; 0 to 1.
    pub max_skipped_ratio: f64,
    /// What its user calls that share.
    pub limit_name: &'static str,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            shard_bytes: 128 << 20,
            max_skipped_ratio: 0.01,
            limit_name: "--most-skipped",
        }
    }
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Images (or shards, when only an index is made) done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Bytes of shards so far.
    pub bytes: u64,
}

/// What was left out, and the first of each kind by line or name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRecords {
    /// Texts without a character that is not white space.
    pub empty_texts: u64,
    /// Images in no format we can read.
    pub unknown_images: u64,
    /// Labels that could not be read (only when an index is made).
    pub bad_labels: u64,
    /// Where the first ones are.
    pub examples: Vec<String>,
}

impl SkippedRecords {
    const MAX_EXAMPLES: usize = 5;

    fn add_example(&mut self, place: impl FnOnce() -> String) {
        if self.examples.len() < Self::MAX_EXAMPLES {
            self.examples.push(place());
        }
    }

    /// # Errors
    /// If `skipped` of `total` is more than the options allow.
    fn check_limit(
        &self,
        kind: &str,
        skipped: u64,
        total: u64,
        options: &PrepareOptions,
    ) -> Result<()> {
        if skipped as f64 <= options.max_skipped_ratio * total as f64 {
            return Ok(());
        }

        Err(Error::Data(format!(
            "{skipped} of {total} {kind} cannot be used; at most {} % may be. The first: {}. \
             Correct them, or allow more with {}.",
            options.max_skipped_ratio * 100.0,
            self.examples.join("; "),
            options.limit_name
        )))
    }
}

/// A data set that was made.
#[derive(Clone, Debug)]
pub struct PreparedDataset {
    /// What is in it.
    pub index: ShardIndex,
    /// What is not.
    pub skipped: SkippedRecords,
}

impl PreparedDataset {
    /// Says in the log what it holds, and what it leaves out, after `what` was done.
    pub fn log_summary(&self, what: &str) {
        let Self { index, skipped } = self;
        tracing::info!(
            images = index.images,
            pairs = index.pairs,
            shards = index.shards.len(),
            empty_texts = skipped.empty_texts,
            unknown_images = skipped.unknown_images,
            bad_labels = skipped.bad_labels,
            dataset = index.dataset,
            "{what}"
        );

        for example in &skipped.examples {
            tracing::warn!("Skipped: {example}");
        }
    }
}

/// Makes shards of `<split>_imgs.tsv` and `<split>_texts.jsonl`: one sample an image, in the order
/// of the image ids, with all its captions in the order of the text ids; numbers come before names.
///
/// # Errors
/// If a line cannot be used, naming it; if more is skipped than allowed; if the store fails. An
/// earlier data set at the same place is no longer one, because its index is removed first.
///
/// # Guarantees
/// The same input gives the same bytes. Texts are held in memory, images are not.
pub fn prepare_files(
    images: &Path,
    texts: &Path,
    output: &Store,
    options: &PrepareOptions,
    progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let images = ImageSource::open_tsv(images)?;
    write_dataset(
        images,
        |images, skipped| TextIndex::read_jsonl(texts, images, skipped),
        output,
        options,
        progress,
    )
}

/// Makes the same shards of a folder with the reference's databases `imgs` and `pairs`, or with its
/// `imgs` and a text file: pairs have no texts without an image.
///
/// # Errors
/// As [`prepare`], and if a database is torn or its count is not that of its entries.
///
/// # Guarantees
/// As [`prepare`]; the bytes are those of the files that the databases were made of.
pub fn prepare_lmdb(
    folder: &Path,
    texts: Option<&Path>,
    output: &Store,
    options: &PrepareOptions,
    progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let images = ImageSource::open_lmdb(&folder.join("imgs"))?;
    let pairs = folder.join("pairs");
    let read = |images: &ImageSource, skipped: &mut SkippedRecords| match texts {
        Some(texts) => TextIndex::read_jsonl(texts, images, skipped),
        None => TextIndex::read_lmdb(&pairs, images, skipped),
    };

    write_dataset(images, read, output, options, progress)
}

fn write_dataset(
    mut images: ImageSource,
    texts: impl FnOnce(&ImageSource, &mut SkippedRecords) -> Result<TextIndex>,
    output: &Store,
    options: &PrepareOptions,
    mut progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let mut skipped = SkippedRecords::default();
    let texts = texts(&images, &mut skipped)?;
    skipped.check_limit("texts", skipped.empty_texts, texts.total_read, options)?;

    output.delete(INDEX_FILE)?;
    let mut writer = ShardWriter::new(output, options.shard_bytes);
    let total = images.len() as u64;

    for place in 0..images.len() {
        let bytes = images.read_image(place)?;
        match image_extension(&bytes) {
            Some(extension) => {
                let id = images.image_id(place);
                writer.add_sample((id, place), extension, &bytes, &texts.texts_of_image(id))?;
            }
            None => {
                skipped.unknown_images += 1;
                skipped.add_example(|| images.image_location(place));
            }
        }

        progress(PrepareProgress {
            done: place as u64 + 1,
            total,
            bytes: writer.total_bytes(),
        });
    }

    skipped.check_limit("images", skipped.unknown_images, total, options)?;
    let shards = writer.finish_shards()?;
    let loose = write_loose_texts(output, &texts)?;
    let index = ShardIndex::new(shards, loose);
    index.write_to(output)?;

    Ok(PreparedDataset { index, skipped })
}

/// Writes the index of WebDataset shards that are there, reading each of them once.
///
/// # Errors
/// If there are no shards, one is torn, or more labels are unusable than allowed.
pub fn index_shards(
    store: &Store,
    options: &PrepareOptions,
    mut progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let mut skipped = SkippedRecords::default();
    let found = store.list_objects()?;
    let names: Vec<_> = found
        .iter()
        .map(|e| &e.name)
        .filter(|n| n.ends_with(".tar"))
        .collect();

    if names.is_empty() {
        return Err(Error::Config(format!(
            "{} holds no .tar; name the folder that holds the shards",
            store.uri()
        )));
    }

    let mut shards = Vec::with_capacity(names.len());
    let mut size = 0;
    for name in &names {
        let part = index_shard(store, name, &mut skipped)?;
        size += part.bytes;
        shards.push(part);
        progress(PrepareProgress {
            done: shards.len() as u64,
            total: names.len() as u64,
            bytes: size,
        });
    }

    let loose = store
        .get_if_exists(LOOSE_TEXTS_FILE)?
        .map(|bytes| IndexedFile::new(LOOSE_TEXTS_FILE, &bytes, 0, 0));

    let index = ShardIndex::new(shards, loose);
    skipped.check_limit("labels", skipped.bad_labels, index.images, options)?;
    index.write_to(store)?;
    Ok(PreparedDataset { index, skipped })
}

fn index_shard(store: &Store, name: &str, skipped: &mut SkippedRecords) -> Result<IndexedFile> {
    let bytes = store.get(name)?;
    let (members, torn) = read_tar(&bytes);
    let uri = store.object_uri(name);

    if let Some(why) = torn {
        return Err(Error::Data(format!(
            "Shard {uri} is torn after {} samples: {why}. Re-upload it.",
            members.len()
        )));
    }

    let mut pairs = 0;
    for member in &members {
        match &member.label {
            Ok(label) => pairs += label.texts.len() as u64,
            Err(error) => {
                skipped.bad_labels += 1;
                skipped.add_example(|| format!("{uri} {}: {error}", member.key));
            }
        }
    }

    Ok(IndexedFile::new(name, &bytes, members.len() as u64, pairs))
}

fn write_loose_texts(output: &Store, texts: &TextIndex) -> Result<Option<IndexedFile>> {
    let lines = texts.loose_jsonl();
    if lines.is_empty() {
        output.delete(LOOSE_TEXTS_FILE)?;
        return Ok(None);
    }

    let part = IndexedFile::new(LOOSE_TEXTS_FILE, lines.as_bytes(), 0, 0);
    output.put(LOOSE_TEXTS_FILE, lines.into())?;
    Ok(Some(part))
}

/// The file extension of an encoded picture, `None` if it is in no format we read.
fn image_extension(bytes: &[u8]) -> Option<&'static str> {
    use image::ImageFormat;
    match image::guess_format(bytes).ok()? {
        ImageFormat::Jpeg => Some("jpg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::WebP => Some("webp"),
        ImageFormat::Gif => Some("gif"),
        ImageFormat::Bmp => Some("bmp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
