//! Makes a data set of shards from the reference's files, or an index beside shards that are there.
//! Decides which lines can be used; never decodes a picture, and never changes one.

mod images;
mod lmdb;
mod texts;
mod write;

use std::path::Path;

use super::shard::{INDEX, Index, Part, read_tar};
use crate::error::{Error, Result};
use crate::store::Store;
pub use images::Images;
use texts::Texts;
use write::Writer;

/// The file of texts that belong to no image.
const LOOSE_TEXTS: &str = "loose_texts.jsonl";

/// How a data set is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A shard is closed when it has grown to this size.
    pub shard_bytes: u64,
    /// The largest share of the images, and of the texts, that may be unusable; 0 to 1.
    pub most_skipped: f64,
    /// What its user calls that share.
    pub skipped_by: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shard_bytes: 128 << 20,
            most_skipped: 0.01,
            skipped_by: "--most-skipped",
        }
    }
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Images (or shards, when only an index is made) done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Bytes of shards so far.
    pub bytes: u64,
}

/// What was left out, and the first of each kind by line or name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Texts without a character that is not white space.
    pub empty_texts: u64,
    /// Images in no format we can read.
    pub unknown_images: u64,
    /// Labels that could not be read (only when an index is made).
    pub bad_labels: u64,
    /// Where the first ones are.
    pub examples: Vec<String>,
}

impl Skipped {
    const MOST_EXAMPLES: usize = 5;

    fn example(&mut self, place: impl FnOnce() -> String) {
        if self.examples.len() < Self::MOST_EXAMPLES {
            self.examples.push(place());
        }
    }

    /// # Errors
    /// If `skipped` of `total` is more than the options allow.
    fn within(&self, kind: &str, skipped: u64, total: u64, options: &Options) -> Result<()> {
        if skipped as f64 <= options.most_skipped * total as f64 {
            return Ok(());
        }

        Err(Error::Data(format!(
            "{skipped} of {total} {kind} cannot be used; at most {} % may be. The first: {}. \
             Correct them, or allow more with {}.",
            options.most_skipped * 100.0,
            self.examples.join("; "),
            options.skipped_by
        )))
    }
}

/// A data set that was made.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is in it.
    pub index: Index,
    /// What is not.
    pub skipped: Skipped,
}

impl Prepared {
    /// Says in the log what it holds, and what it leaves out, after `what` was done.
    pub fn tell(&self, what: &str) {
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
pub fn prepare(
    images: &Path,
    texts: &Path,
    output: &Store,
    options: &Options,
    progress: impl FnMut(Progress),
) -> Result<Prepared> {
    let images = Images::open(images)?;
    make(
        images,
        |images, skipped| Texts::read(texts, images, skipped),
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
pub fn prepare_databases(
    folder: &Path,
    texts: Option<&Path>,
    output: &Store,
    options: &Options,
    progress: impl FnMut(Progress),
) -> Result<Prepared> {
    let images = Images::open_database(&folder.join("imgs"))?;
    let pairs = folder.join("pairs");
    let read = |images: &Images, skipped: &mut Skipped| match texts {
        Some(texts) => Texts::read(texts, images, skipped),
        None => Texts::read_pairs(&pairs, images, skipped),
    };

    make(images, read, output, options, progress)
}

fn make(
    mut images: Images,
    texts: impl FnOnce(&Images, &mut Skipped) -> Result<Texts>,
    output: &Store,
    options: &Options,
    mut progress: impl FnMut(Progress),
) -> Result<Prepared> {
    let mut skipped = Skipped::default();
    let texts = texts(&images, &mut skipped)?;
    skipped.within("texts", skipped.empty_texts, texts.read, options)?;

    output.delete(INDEX)?;
    let mut writer = Writer::new(output, options.shard_bytes);
    let total = images.len() as u64;

    for place in 0..images.len() {
        let bytes = images.bytes(place)?;
        match extension(&bytes) {
            Some(extension) => {
                let id = images.id(place);
                writer.add((id, place), extension, &bytes, &texts.of_image(id))?;
            }
            None => {
                skipped.unknown_images += 1;
                skipped.example(|| images.told(place));
            }
        }

        progress(Progress {
            done: place as u64 + 1,
            total,
            bytes: writer.bytes(),
        });
    }

    skipped.within("images", skipped.unknown_images, total, options)?;
    let shards = writer.finish()?;
    let loose = loose_texts(output, &texts)?;
    let index = Index::new(shards, loose);
    index.write(output)?;

    Ok(Prepared { index, skipped })
}

/// Writes the index of WebDataset shards that are there, reading each of them once.
///
/// # Errors
/// If there are no shards, one is torn, or more labels are unusable than allowed.
pub fn index(
    store: &Store,
    options: &Options,
    mut progress: impl FnMut(Progress),
) -> Result<Prepared> {
    let mut skipped = Skipped::default();
    let found = store.list()?;
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
        let part = part_of(store, name, &mut skipped)?;
        size += part.bytes;
        shards.push(part);
        progress(Progress {
            done: shards.len() as u64,
            total: names.len() as u64,
            bytes: size,
        });
    }

    let loose = store
        .find(LOOSE_TEXTS)?
        .map(|bytes| Part::new(LOOSE_TEXTS, &bytes, 0, 0));

    let index = Index::new(shards, loose);
    skipped.within("labels", skipped.bad_labels, index.images, options)?;
    index.write(store)?;
    Ok(Prepared { index, skipped })
}

fn part_of(store: &Store, name: &str, skipped: &mut Skipped) -> Result<Part> {
    let bytes = store.get(name)?;
    let (members, torn) = read_tar(&bytes);
    let uri = store.uri_of(name);

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
                skipped.example(|| format!("{uri} {}: {error}", member.key));
            }
        }
    }

    Ok(Part::new(name, &bytes, members.len() as u64, pairs))
}

fn loose_texts(output: &Store, texts: &Texts) -> Result<Option<Part>> {
    let lines = texts.loose();
    if lines.is_empty() {
        output.delete(LOOSE_TEXTS)?;
        return Ok(None);
    }

    let part = Part::new(LOOSE_TEXTS, lines.as_bytes(), 0, 0);
    output.put(LOOSE_TEXTS, lines.into())?;
    Ok(Some(part))
}

/// The file extension of an encoded picture, `None` if it is in no format we read.
fn extension(bytes: &[u8]) -> Option<&'static str> {
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
