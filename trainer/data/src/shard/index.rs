//! The table of contents of a data set: which shards, how much is in each, and the digest of it
//! all. Written last, so a data set with an index is whole. Never looks into a shard.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Store;
use cnclip_compute::digest::sha256;

/// The name of the index beside the shards.
pub const INDEX_FILE: &str = "index.json";
const INDEX_FORMAT: &str = "cnclip-shards/1";

/// A file of a data set: a tar of samples, or the texts that belong to no image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedFile {
    /// The object's name beside the index.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Images in it.
    pub images: u64,
    /// Image-text pairs in it.
    pub pairs: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

impl IndexedFile {
    /// The entry of a file of these bytes.
    pub fn new(name: &str, bytes: &[u8], images: u64, pairs: u64) -> Self {
        let name = name.to_owned();
        let sha256 = sha256(bytes);
        Self {
            name,
            bytes: bytes.len() as u64,
            images,
            pairs,
            sha256,
        }
    }
}

/// The table of contents of a data set.
///
/// ```
/// use cnclip_data::shard::{IndexedFile, ShardIndex};
/// use cnclip_data::store::Store;
///
/// # fn main() -> cnclip_data::error::Result<()> {
/// let shard = IndexedFile::new("00000.tar", b"the bytes of the shard", 2, 3);
/// let index = ShardIndex::new(vec![shard], None);
/// assert_eq!((index.images, index.pairs), (2, 3));
///
/// let store = Store::in_memory();
/// index.write_to(&store)?;
/// assert_eq!(ShardIndex::read_from(&store)?.dataset, index.dataset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardIndex {
    format: String,
    /// SHA-256 over the name, counts and digest of every part, in hexadecimal: two data sets with
    /// one digest hold the same pairs in the same places.
    pub dataset: String,
    /// Images in all shards.
    pub images: u64,
    /// Image-text pairs in all shards.
    pub pairs: u64,
    /// The shards, in the order of their names.
    pub shards: Vec<IndexedFile>,
    /// The texts that belong to no image, if there are any: one JSON object a line, with `text_id`
    /// and `text`. `images` and `pairs` are 0.
    pub loose_texts: Option<IndexedFile>,
}

impl ShardIndex {
    /// The index of these files.
    pub fn new(mut shards: Vec<IndexedFile>, loose_texts: Option<IndexedFile>) -> Self {
        // By name, so that the digest does not depend on the order in which a store lists or a program writes.
        shards.sort_by(|a, b| a.name.cmp(&b.name));
        let dataset = dataset_digest(&shards, loose_texts.as_ref());
        let images = saturating_sum(shards.iter().map(|shard| shard.images));
        let pairs = saturating_sum(shards.iter().map(|shard| shard.pairs));

        Self {
            format: INDEX_FORMAT.into(),
            dataset,
            images,
            pairs,
            shards,
            loose_texts,
        }
    }

    /// The index of the data set at `store`.
    ///
    /// # Errors
    /// If there is none, or if its sums and digest are not those of its files.
    pub fn read_from(store: &Store) -> Result<Self> {
        let uri = store.object_uri(INDEX_FILE);
        let bytes = store.get_if_exists(INDEX_FILE)?.ok_or_else(|| {
            Error::Config(format!(
                "{} holds no {INDEX_FILE}. If it holds WebDataset shards, make one with `cnclip prepare \
                 --shards {}`; else make shards with `cnclip prepare --images … --texts …`.",
                store.uri(),
                store.uri()
            ))
        })?;

        let index: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Data(format!("{uri} is not an index of shards: {error}")))?;
        index.check_counts(&uri)?;
        // An index that was edited by hand, or merged from two, would shift ids and counts without a word.
        let remade = Self::new(index.shards.clone(), index.loose_texts.clone());

        if index != remade {
            return Err(Error::Data(format!(
                "{uri} does not agree with itself: its parts make data set {} with {} images and \
                 {} pairs, it says {} with {} and {}. Prepare the data set again.",
                remade.dataset,
                remade.images,
                remade.pairs,
                index.dataset,
                index.images,
                index.pairs
            )));
        }

        Ok(index)
    }

    /// An order of the pairs is made from the counts before any shard is read.
    ///
    /// # Errors
    /// If a shard has more pairs or images than bytes, or than a number of 32 bits counts.
    fn check_counts(&self, uri: &str) -> Result<()> {
        let is_possible =
            |part: &&IndexedFile| part.images.max(part.pairs) <= part.bytes.min(u32::MAX.into());
        match self.shards.iter().find(|part| !is_possible(part)) {
            None => Ok(()),
            Some(part) => Err(Error::Data(format!(
                "{uri} says that {} has {} images and {} pairs in {} bytes, which cannot be. Prepare the data \
                 set again.",
                part.name, part.images, part.pairs, part.bytes
            ))),
        }
    }

    /// Publishes the index.
    ///
    /// # Errors
    /// If the store does not take it.
    pub fn write_to(&self, store: &Store) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Bug(format!("cannot write an index as JSON: {error}")))?;
        store.put(INDEX_FILE, Bytes::from(text))
    }
}

/// Counts are read from a file, which may hold any number.
pub(super) fn saturating_sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

// One line a file and names that hold no line break: no two lists of files make one text. The format is part of
// every checkpoint by way of the digest, and must not change.
fn dataset_digest(shards: &[IndexedFile], loose_texts: Option<&IndexedFile>) -> String {
    let lines = shards.iter().chain(loose_texts).map(|part| {
        let IndexedFile {
            name,
            bytes,
            images,
            pairs,
            sha256,
        } = part;

        format!("{name} {bytes} {images} {pairs} {sha256}\n")
    });

    sha256(lines.collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> IndexedFile {
        IndexedFile {
            name: name.into(),
            bytes: 10,
            images: 2,
            pairs: 3,
            sha256: sha256(b"x"),
        }
    }

    #[test]
    fn an_index_is_read_as_it_was_written_whatever_order_its_parts_came_in() {
        let store = Store::in_memory();
        let index = ShardIndex::new(
            vec![part("b.tar"), part("a.tar")],
            Some(part("texts.jsonl")),
        );

        index.write_to(&store).unwrap();
        assert_eq!(ShardIndex::read_from(&store).unwrap(), index);
        assert_eq!(
            index,
            ShardIndex::new(
                vec![part("a.tar"), part("b.tar")],
                Some(part("texts.jsonl"))
            )
        );

        assert_eq!((index.images, index.pairs), (4, 6));
    }

    #[test]
    fn counts_that_no_shard_can_have_are_refused() {
        let counts = [(11, 3), (2, 11), (u64::MAX, u64::MAX)];
        for (images, pairs) in counts {
            let shard = || IndexedFile {
                images,
                pairs,
                ..part("a.tar")
            };

            let store = Store::in_memory();
            let index = ShardIndex::new(vec![shard(), shard()], None);
            index.write_to(&store).unwrap();
            let error = ShardIndex::read_from(&store).unwrap_err().to_string();
            assert!(error.contains("in 10 bytes, which cannot be"), "{error}");
        }
    }

    #[test]
    fn an_edited_index_and_an_absent_one_say_what_to_do() {
        let store = Store::in_memory();
        let error = ShardIndex::read_from(&store).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cnclip prepare --shards memory:"),
            "{error}"
        );

        assert_eq!(error.exit().exit_code(), 78);

        ShardIndex::new(vec![part("a.tar")], None)
            .write_to(&store)
            .unwrap();
        let text = String::from_utf8(store.get(INDEX_FILE).unwrap().to_vec()).unwrap();
        store
            .put(
                INDEX_FILE,
                text.replace("\"pairs\": 3", "\"pairs\": 4").into(),
            )
            .unwrap();

        let error = ShardIndex::read_from(&store).unwrap_err();
        assert!(
            error.to_string().contains("does not agree with itself"),
            "{error}"
        );

        assert_eq!(error.exit().exit_code(), 65);
    }
}
