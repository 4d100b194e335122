//! Readers of data sets in foreign formats: images by id, and texts with the ids of their images.
//!
//! A format implements [`ImageReader`], [`TextReader`] or both in a file of its own. To add one, write that
//! file, list it in `SPLIT_LAYOUTS` if evaluations should find it by the name of a split, and add a line to
//! the contract in the tests, which every format must pass.

mod base64_value;
mod jsonl;
mod lmdb;
mod split_layout;
mod tsv;

use std::path::Path;

use crate::error::{Error, Result};
use crate::shard::ItemId;
pub use jsonl::JsonlTexts;
pub use lmdb::{LmdbImages, LmdbTexts, PickledPair, parse_pickled_pair};
pub use split_layout::{OpenCopies, SplitFiles, SplitLocation};
pub use tsv::TsvImages;

/// Finds the files of a split in one format; `None` if it is not in that format.
type FindSplitFiles = fn(&SplitLocation) -> Result<Option<SplitFiles>>;

/// The layouts of a split, in the order in which they are looked for.
///
/// A folder of databases that the URI names itself comes before the files beside it, and those before
/// databases in the shared folder `lmdb`: the more exactly a URI names something, the earlier it is tried.
const SPLIT_LAYOUTS: [FindSplitFiles; 3] = [
    lmdb::find_in_named_folder,
    tsv::find_split_files,
    lmdb::find_in_shared_folder,
];

/// The images of a data set, found without keeping any of them in memory.
pub trait ImageReader {
    /// The file or database, for messages.
    fn source(&self) -> String;

    /// The ids of all images: at least one, ascending, none twice.
    fn ids(&self) -> &[ItemId];

    /// Where the image at an index of [`ids`](Self::ids) is stored, for messages.
    fn location(&self, index: usize) -> String;

    /// The encoded image at an index of [`ids`](Self::ids), byte for byte as it was put in.
    ///
    /// # Errors
    /// If it cannot be read or is not what the format stores, naming its location.
    fn read_image(&mut self, index: usize) -> Result<Vec<u8>>;

    /// Whether there is an image of this id.
    fn contains(&self, id: &ItemId) -> bool {
        self.ids().binary_search(id).is_ok()
    }
}

/// The texts of a data set.
pub trait TextReader {
    /// The file or database, for messages.
    fn source(&self) -> String;

    /// What its records are numbered by, for messages: `line` or `key`.
    fn record_unit(&self) -> &'static str;

    /// Passes every text to `each`, with all of its images. Empty texts and images that do not exist are
    /// passed as they are: the caller decides about them.
    ///
    /// # Errors
    /// A record that is not what the format stores, naming its location, or the first error of `each`.
    fn for_each_text(&mut self, each: &mut dyn FnMut(TextRecord) -> Result<()>) -> Result<()>;
}

/// A text and the images that it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRecord {
    /// The number of the line or key that it was read from.
    pub number: u64,
    /// Its id in the data set.
    pub text_id: ItemId,
    /// The text.
    pub text: String,
    /// Ids of its images; none for a text that only evaluations use, as a distractor.
    pub image_ids: Vec<ItemId>,
}

/// The two halves of a data set in foreign formats.
pub struct DatasetReader {
    /// Its images.
    pub images: Box<dyn ImageReader>,
    /// Its texts.
    pub texts: Box<dyn TextReader>,
}

impl DatasetReader {
    /// The reference's files `<split>_imgs.tsv` and `<split>_texts.jsonl`.
    ///
    /// # Errors
    /// If a file is missing, or a line of the images cannot be used.
    pub fn open_files(images: &Path, texts: &Path) -> Result<Self> {
        Ok(Self {
            images: Box::new(TsvImages::open(images)?),
            texts: Box::new(JsonlTexts::open(texts)?),
        })
    }

    /// The reference's databases `imgs` and `pairs` in a folder, or its `imgs` with a file of texts: `pairs`
    /// cannot hold a text that has no image.
    ///
    /// # Errors
    /// If a database is missing or torn, or holds another number of entries than it says.
    pub fn open_lmdb(folder: &Path, texts: Option<&Path>) -> Result<Self> {
        let images = Box::new(LmdbImages::open(&folder.join("imgs"))?);
        let texts: Box<dyn TextReader> = match texts {
            Some(file) => Box::new(JsonlTexts::open(file)?),
            None => Box::new(LmdbTexts::open(&folder.join("pairs"))?),
        };

        Ok(Self { images, texts })
    }
}

/// # Errors
/// If a source has no image at all.
fn ensure_not_empty<R: ImageReader>(images: R) -> Result<R> {
    if images.ids().is_empty() {
        return Err(Error::Data(format!("{} holds no image", images.source())));
    }

    Ok(images)
}

#[cfg(test)]
mod tests;
