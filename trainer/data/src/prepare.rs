//! Makes a data set of shards from one in a foreign format, or an index beside shards that are there.
//! Decides which records can be used; never decodes an image, and never changes one.

mod shard_writer;
mod text_index;

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::readers::{DatasetReader, ImageReader};
use crate::shard::{INDEX_FILE, IndexedFile, ShardIndex, TarContents, read_tar};
use crate::skip_budget::{SkipBudget, SkipExamples, SkipReport};
use crate::store::Store;
use shard_writer::ShardWriter;
use text_index::TextIndex;

/// The file of texts that belong to no image.
const LOOSE_TEXTS_FILE: &str = "loose_texts.jsonl";

/// How a data set is made.
#[derive(Clone, Copy, Debug)]
pub struct PrepareOptions {
    /// A shard is closed when it has grown to this size.
    pub shard_bytes: u64,
    /// The largest share of the images, and of the texts, that may be unusable; 0 to 1.
    pub max_skipped_ratio: f64,
    /// The name of that limit where its user sets it, for messages.
    pub limit_name: &'static str,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            // Large enough that reading one is a sequential transfer, small enough that a window of shards
            // still mixes many of them.
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
    /// Images (or shards) in all.
    pub total: u64,
    /// Bytes of shards so far.
    pub bytes: u64,
}

/// What was left out, and the first of each kind by line or name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRecords {
    /// Texts of nothing but white space.
    pub empty_texts: u64,
    /// Images in no format that is read.
    pub unknown_images: u64,
    /// Labels that could not be parsed (only when an index is made).
    pub bad_labels: u64,
    /// Where the first ones are.
    pub examples: SkipExamples,
}

impl SkippedRecords {
    /// # Errors
    /// If `skipped` of `total` is more than the options allow.
    fn check_limit(
        &self,
        records: &str,
        skipped: u64,
        total: u64,
        options: &PrepareOptions,
    ) -> Result<()> {
        let report = SkipReport {
            skipped,
            total,
            records,
            detail: "",
            examples: format!("{}.", self.examples.join("; ")),
            remedy: &format!("Correct them, or allow more with {}.", options.limit_name),
        };

        SkipBudget::new(options.max_skipped_ratio).check(&report)
    }
}

/// A data set that was made.
#[derive(Clone, Debug)]
pub struct PreparedDataset {
    /// Its table of contents.
    pub index: ShardIndex,
    /// Records that are not in it.
    pub skipped: SkippedRecords,
}

impl PreparedDataset {
    /// Logs what it holds and what it leaves out, under the message `what`.
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

        for example in skipped.examples.iter() {
            tracing::warn!("Skipped: {example}");
        }
    }
}

/// Makes shards of a data set in a foreign format: one sample an image, in the order of the image ids, with
/// all its texts in the order of the text ids; numbers come before names.
///
/// # Errors
/// If a record cannot be used, naming it; if more is skipped than allowed; if the store fails. An earlier
/// data set at the same place is no longer one, because its index is removed first.
///
/// # Guarantees
/// The same images and texts give the same bytes, whatever their format. Texts are held in memory, images
/// are not.
///
/// ```
/// use cnclip_data::prepare::{PrepareOptions, prepare_dataset};
/// use cnclip_data::readers::DatasetReader;
/// use cnclip_data::store::Store;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let images = folder.path().join("train_imgs.tsv");
/// let texts = folder.path().join("train_texts.jsonl");
/// // The eight bytes that every PNG begins with are enough: preparing decodes nothing.
/// std::fs::write(&images, "7\tiVBORw0KGgo=\n")?;
/// std::fs::write(&texts, r#"{"text_id": 1, "text": "一只猫", "image_ids": [7]}"#)?;
///
/// let output = Store::in_memory();
/// let reader = DatasetReader::open_files(&images, &texts)?;
/// let made = prepare_dataset(reader, &output, &PrepareOptions::default(), |_| ())?;
///
/// assert_eq!((made.index.images, made.index.pairs), (1, 1));
/// assert!(output.object_size("00000.tar")?.is_some());
/// # Ok(())
/// # }
/// ```
pub fn prepare_dataset(
    reader: DatasetReader,
    output: &Store,
    options: &PrepareOptions,
    mut progress: impl FnMut(PrepareProgress),
) -> Result<PreparedDataset> {
    let DatasetReader {
        mut images,
        mut texts,
    } = reader;

    // Texts first: they are checked against the image ids in seconds, before hours of images are copied.
    let mut skipped = SkippedRecords::default();
    let texts = TextIndex::read(texts.as_mut(), images.as_ref(), &mut skipped)?;
    skipped.check_limit("texts", skipped.empty_texts, texts.total_read, options)?;

    // A data set with an index is whole, so the old index goes before the first shard is overwritten.
    output.delete(INDEX_FILE)?;
    let mut writer = ShardWriter::new(output, options.shard_bytes);
    write_images(
        images.as_mut(),
        &texts,
        &mut writer,
        &mut skipped,
        &mut progress,
    )?;

    let total = images.ids().len() as u64;
    skipped.check_limit("images", skipped.unknown_images, total, options)?;
    let shards = writer.finish_shards()?;
    let loose = write_loose_texts(output, &texts)?;
    let index = ShardIndex::new(shards, loose);
    index.write_to(output)?;
    Ok(PreparedDataset { index, skipped })
}

fn write_images(
    images: &mut dyn ImageReader,
    texts: &TextIndex,
    writer: &mut ShardWriter<'_>,
    skipped: &mut SkippedRecords,
    progress: &mut impl FnMut(PrepareProgress),
) -> Result<()> {
    let total = images.ids().len();
    for index in 0..total {
        let bytes = match images.read_image(index) {
            Ok(bytes) => bytes,
            // One image that cannot be read is one that is skipped, under the limit of all.
            Err(Error::Data(why)) => {
                skipped.unknown_images += 1;
                skipped.examples.push_with(|| why);
                continue;
            }
            Err(error) => return Err(error),
        };

        match image_extension(&bytes) {
            Some(extension) => {
                let id = &images.ids()[index];
                writer.add_sample(id, index, extension, &bytes, &texts.texts_of_image(id))?;
            }
            None => {
                skipped.unknown_images += 1;
                skipped.examples.push_with(|| images.location(index));
            }
        }

        progress(PrepareProgress {
            done: index as u64 + 1,
            total: total as u64,
            bytes: writer.total_bytes(),
        });
    }

    Ok(())
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
    let names = list_shard_names(store)?;
    let mut skipped = SkippedRecords::default();
    let mut unused_files = BTreeMap::new();
    let mut shards = Vec::with_capacity(names.len());
    let mut bytes = 0;

    for name in &names {
        let shard = index_shard(store, name, &mut skipped, &mut unused_files)?;
        bytes += shard.bytes;
        shards.push(shard);
        progress(PrepareProgress {
            done: shards.len() as u64,
            total: names.len() as u64,
            bytes,
        });
    }

    let loose = store
        .get_if_exists(LOOSE_TEXTS_FILE)?
        .map(|bytes| IndexedFile::new(LOOSE_TEXTS_FILE, &bytes, 0, 0));

    let index = ShardIndex::new(shards, loose);
    skipped.check_limit("labels", skipped.bad_labels, index.images, options)?;
    skipped.check_limit("texts", skipped.empty_texts, index.pairs, options)?;
    check_not_empty(store, &index, &unused_files)?;
    index.write_to(store)?;
    Ok(PreparedDataset { index, skipped })
}

/// Says what the shards hold in place of what was looked for.
///
/// # Errors
/// If they hold no image at all.
fn check_not_empty(
    store: &Store,
    index: &ShardIndex,
    unused_files: &BTreeMap<String, u64>,
) -> Result<()> {
    let unused: Vec<_> = unused_files
        .iter()
        .map(|(extension, count)| format!(".{extension} ({count})"))
        .collect();

    let unused = unused.join(", ");
    let uri = store.uri();
    if index.images == 0 {
        return Err(Error::Data(format!(
            "the shards of {uri} hold no image: files that are no part of a sample are {unused}. Images end in \
             .jpg, .png, .webp, .gif or .bmp, and their captions in .json or .txt."
        )));
    }

    // Images alone are what a gallery is made of, so this is no error.
    if index.pairs == 0 {
        tracing::warn!(
            "no image of {uri} has a caption, so nothing can be trained on it: captions are looked for in \
             key.txt, and in `texts`, `captions`, `text`, `caption` or `TEXT` of key.json"
        );
    }

    if !unused.is_empty() {
        tracing::warn!("files of {uri} that are part of no sample: {unused}");
    }

    Ok(())
}

fn list_shard_names(store: &Store) -> Result<Vec<String>> {
    let objects = store.list_objects()?;
    let names = objects
        .into_iter()
        .map(|object| object.name)
        .filter(|name| !is_hidden_file(name));

    let (names, others): (Vec<_>, Vec<_>) = names.partition(|name| name.ends_with(".tar"));
    let compressed: Vec<_> = others
        .iter()
        .filter(|name| is_compressed_tar(name))
        .map(|name| store.object_uri(name))
        .collect();

    if let Some(first) = compressed.first() {
        return Err(Error::Config(format!(
            "{} shards are compressed, {first} is the first: unpack them to .tar, for the images in them are \
             compressed already",
            compressed.len()
        )));
    }

    if names.is_empty() {
        return Err(Error::Config(format!(
            "{} holds no .tar; name the folder that holds the shards",
            store.uri()
        )));
    }

    Ok(names)
}

/// `._00000.tar` is what macOS adds to `00000.tar`.
fn is_hidden_file(name: &str) -> bool {
    let file = name.rsplit('/').next();
    file.is_some_and(|file| file.starts_with('.'))
}

fn is_compressed_tar(name: &str) -> bool {
    const ENDINGS: [&str; 4] = [".tar.gz", ".tgz", ".tar.zst", ".tar.bz2"];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn index_shard(
    store: &Store,
    name: &str,
    skipped: &mut SkippedRecords,
    unused_files: &mut BTreeMap<String, u64>,
) -> Result<IndexedFile> {
    let bytes = store.get(name)?;
    let TarContents {
        samples,
        damage,
        unused_files: unused,
    } = read_tar(&bytes);

    let uri = store.object_uri(name);
    for (extension, count) in unused {
        *unused_files.entry(extension).or_default() += count;
    }

    // An index would make the loss look intended: nobody would notice that samples are missing.
    if let Some(why) = damage {
        return Err(Error::Data(format!(
            "Shard {uri} cannot be used, after {} samples: {why}. If that is not what was packed, upload it again.",
            samples.len()
        )));
    }

    let mut pairs = 0;
    for sample in &samples {
        match &sample.label {
            Ok(label) => {
                pairs += label.texts.len() as u64;
                let empty = label
                    .texts
                    .iter()
                    .filter(|text| text.text.trim().is_empty());
                for _ in empty {
                    skipped.empty_texts += 1;
                    skipped
                        .examples
                        .push_with(|| format!("{uri} {}: its caption is empty", sample.key));
                }
            }
            Err(error) => {
                skipped.bad_labels += 1;
                skipped
                    .examples
                    .push_with(|| format!("{uri} {}: {error}", sample.key));
            }
        }
    }

    Ok(IndexedFile::new(name, &bytes, samples.len() as u64, pairs))
}

fn write_loose_texts(output: &Store, texts: &TextIndex) -> Result<Option<IndexedFile>> {
    let lines = texts.loose_jsonl();
    if lines.is_empty() {
        // One of an earlier data set would be taken for this one's when shards are indexed again.
        output.delete(LOOSE_TEXTS_FILE)?;
        return Ok(None);
    }

    let file = IndexedFile::new(LOOSE_TEXTS_FILE, lines.as_bytes(), 0, 0);
    output.put(LOOSE_TEXTS_FILE, lines.into())?;
    Ok(Some(file))
}

/// The file extension of an encoded image, `None` if it is in no format that is read.
fn image_extension(bytes: &[u8]) -> Option<&'static str> {
    // By the first bytes: decoding every image would take hours, and the loader skips those that do not decode.
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
pub(crate) mod tests;
