//! The reference's LMDB databases: `imgs`, with an image in base64 under each image id, and `pairs`, with a
//! pickled `(image_id, text_id, text)` under each running number.

mod b_tree;
mod database;
mod meta_page;
mod pickled_pair;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use super::base64_value::decode_image_value;
use super::split_layout::{SplitFiles, SplitLocation};
use super::tsv::texts_file_name;
use super::{DatasetReader, ImageReader, TextReader, TextRecord, ensure_not_empty};
use crate::error::{Error, Result};
use crate::shard::ItemId;
use database::LmdbDatabase;
pub use pickled_pair::{PickledPair, parse_pickled_pair};

/// The key under which the reference stores how many images there are.
const NUM_IMAGES_KEY: &str = "num_images";
/// The key under which the reference stores how many pairs there are.
const NUM_SAMPLES_KEY: &str = "num_samples";
/// The file of a database.
const DATA_FILE: &str = "data.mdb";

/// The images of a database `imgs`.
pub struct LmdbImages {
    database: LmdbDatabase,
    ids: Vec<ItemId>,
}

impl LmdbImages {
    /// Finds every image of a database.
    ///
    /// # Errors
    /// If there is none, it is torn, or it holds another number of images than it says.
    pub fn open(path: &Path) -> Result<Self> {
        let database = LmdbDatabase::open(path, NUM_IMAGES_KEY)?;
        let parse = |key: &[u8]| ItemId::parse(std::str::from_utf8(key).ok()?);
        let ids: Option<Vec<_>> = database.entry_keys().map(parse).collect();
        let mut ids =
            ids.ok_or_else(|| database.damaged_error("it has a key that is no id in UTF-8"))?;

        // LMDB orders keys by their bytes, in which "10" comes before "9".
        ids.sort();
        ensure_not_empty(Self { database, ids })
    }
}

impl ImageReader for LmdbImages {
    fn source(&self) -> String {
        self.database.path()
    }

    fn ids(&self) -> &[ItemId] {
        &self.ids
    }

    fn location(&self, index: usize) -> String {
        format!("{} key {}", self.source(), self.ids[index])
    }

    fn read_image(&mut self, index: usize) -> Result<Vec<u8>> {
        let id = &self.ids[index];
        let value = self.database.get(&id.to_string())?;
        let value =
            value.ok_or_else(|| self.database.damaged_error(&format!("it lacks image {id}")))?;

        decode_image_value(value, id, || self.location(index))
    }
}

/// The texts of a database `pairs`.
pub struct LmdbTexts {
    database: LmdbDatabase,
}

impl LmdbTexts {
    /// Opens a database; its pairs are read later.
    ///
    /// # Errors
    /// If there is none, it is torn, or it holds another number of pairs than it says.
    pub fn open(path: &Path) -> Result<Self> {
        let database = LmdbDatabase::open(path, NUM_SAMPLES_KEY)?;
        Ok(Self { database })
    }

    fn read_pair(&self, number: u64) -> Result<PickledPair> {
        let value = self.database.get(&number.to_string())?;
        let value = value.ok_or_else(|| {
            self.database
                .damaged_error(&format!("it lacks pair {number}"))
        })?;

        parse_pickled_pair(&value).map_err(|error| {
            Error::Data(format!(
                "{} key {number} is no pickled (image_id, text_id, text): {error}. Build the database again.",
                self.source()
            ))
        })
    }

    fn conflict_error(&self, text_id: &ItemId, first: u64, second: u64) -> Error {
        Error::Data(format!(
            "{} key {second}: text {text_id} says something else than in key {first}. Give each text its own \
             text_id, and build the database again.",
            self.source()
        ))
    }
}

impl TextReader for LmdbTexts {
    fn source(&self) -> String {
        self.database.path()
    }

    fn record_unit(&self) -> &'static str {
        "key"
    }

    /// Every text once, in the order of the text ids, with the number of the first of its pairs.
    fn for_each_text(&mut self, each: &mut dyn FnMut(TextRecord) -> Result<()>) -> Result<()> {
        // A text of several images has a pair for each of them, which may lie anywhere in the database.
        let mut texts: BTreeMap<ItemId, TextRecord> = BTreeMap::new();
        for number in 0..self.database.count() {
            let (image_id, text_id, text) = self.read_pair(number)?;
            match texts.entry(text_id) {
                Entry::Vacant(entry) => {
                    let text_id = entry.key().clone();
                    entry.insert(TextRecord {
                        number,
                        text_id,
                        text,
                        image_ids: vec![image_id],
                    });
                }
                Entry::Occupied(mut entry) if entry.get().text == text => {
                    entry.get_mut().image_ids.push(image_id);
                }
                Entry::Occupied(entry) => {
                    return Err(self.conflict_error(entry.key(), entry.get().number, number));
                }
            }
        }

        texts.into_values().try_for_each(each)
    }
}

/// The folder that the reference puts the databases of a split in, beside the files they were made of.
pub(super) fn shared_folder_name(split: &str) -> String {
    format!("lmdb/{split}")
}

/// Databases in the folder that the URI of the split names.
pub(super) fn find_in_named_folder(split: &SplitLocation) -> Result<Option<SplitFiles>> {
    find_databases(split, split.folder.clone())
}

/// Databases in the folder `lmdb` beside the split.
pub(super) fn find_in_shared_folder(split: &SplitLocation) -> Result<Option<SplitFiles>> {
    find_databases(split, shared_folder_name(&split.name))
}

fn find_databases(split: &SplitLocation, folder: String) -> Result<Option<SplitFiles>> {
    let images = format!("{folder}/imgs/{DATA_FILE}");
    if !split.has_file(&images)? {
        return Ok(None);
    }

    // The text file, where there is one, also has the texts of no image, which `pairs` cannot hold.
    let texts_file = texts_file_name(&split.name);
    let texts = split.has_file(&texts_file)?.then_some(texts_file);
    let texts_or_pairs = match &texts {
        Some(file) => file.clone(),
        None => format!("{folder}/pairs/{DATA_FILE}"),
    };

    Ok(Some(SplitFiles {
        // The small file first: if it is missing, nothing large was copied in vain.
        names: vec![texts_or_pairs, images],
        open: Box::new(move |root| {
            let texts = texts.as_ref().map(|file| root.join(file));
            DatasetReader::open_lmdb(&root.join(&folder), texts.as_deref())
        }),
    }))
}
