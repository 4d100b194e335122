//! Where samples come from: WebDataset tars beside one index of counts and digests. Decides what
//! is whole and what is torn; never shuffles, and never decodes an image.

mod id;
mod index;
mod label;
mod tar;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::error::{Error, Result, StoreErrorKind};
use crate::store::Store;
use cnclip_compute::digest::sha256;
pub use id::ItemId;
use index::saturating_sum;
pub use index::{INDEX_FILE, IndexedFile, ShardIndex};
pub use label::{LabelText, LooseText, SampleLabel};
pub use tar::{TarContents, TarSample, read_tar};

/// A text with its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleText {
    /// The id in the data set, else the index among all pairs.
    pub text_id: ItemId,
    /// The text.
    pub text: String,
}

/// One image with its texts.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The id in the data set, else the index among all images.
    pub image_id: ItemId,
    /// The name that its files have in common in the shard.
    pub key: String,
    /// The encoded image.
    pub image: Bytes,
    /// Its texts; none for an image that only evaluations use.
    pub texts: Vec<SampleText>,
}

/// The samples of one shard that could be read.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Where it is.
    pub uri: String,
    /// Its samples, in their order.
    pub samples: Vec<Sample>,
    /// Indices of sample and text of every pair, in their order.
    pub pairs: Vec<(u32, u32)>,
    /// Why there are fewer pairs than the index says, as a message.
    pub damage: Option<String>,
}

/// A data set: shards and their index.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Store,
    index: Arc<ShardIndex>,
    /// The folder of shards that were made for it alone.
    _temp_dir: Option<Arc<TempDir>>,
}

impl Dataset {
    /// The data set at a URI or path.
    ///
    /// # Errors
    /// If there is no index, or it cannot be used.
    pub fn open(uri: &str) -> Result<Self> {
        Self::new(Store::open(uri)?)
    }

    /// The data set in a store.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn new(store: Store) -> Result<Self> {
        let index = Arc::new(ShardIndex::read_from(&store)?);
        Ok(Self {
            store,
            index,
            _temp_dir: None,
        })
    }

    /// The same, with the folder of its shards, which is deleted with the last clone.
    pub(super) fn with_temp_dir(self, folder: TempDir) -> Self {
        Self {
            _temp_dir: Some(Arc::new(folder)),
            ..self
        }
    }

    /// What is in it.
    pub fn index(&self) -> &ShardIndex {
        &self.index
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        self.store.uri()
    }

    /// Reads a shard and compares it with the index. A shard that is missing, torn or changed is
    /// no error: it comes back without samples and with a message about the damage. Whether a run goes on without
    /// them is a matter of its skip budget.
    ///
    /// # Errors
    /// If the store does not answer.
    pub fn read_shard(&self, number: usize) -> Result<Shard> {
        let part = self.index.shards.get(number).ok_or_else(|| {
            let uri = self.uri();
            Error::Bug(format!("{uri} has no shard {number}"))
        })?;

        let uri = self.store.object_uri(&part.name);
        let bytes = match self.store.get(&part.name) {
            Ok(bytes) => bytes,
            Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => {
                return Ok(Shard::missing(uri));
            }
            Err(error) => return Err(error),
        };

        // Ids that a data set does not give are indices over all shards: those of this one start where the
        // others end by the index, so that a torn shard shifts no id behind it.
        let before = &self.index.shards[..number];
        let images = saturating_sum(before.iter().map(|shard| shard.images));
        let pairs = saturating_sum(before.iter().map(|shard| shard.pairs));

        let (members, damage) = verify_shard(&uri, part, &bytes);
        Ok(Shard::new(uri, members, damage, images, pairs))
    }

    /// The texts that belong to no image.
    ///
    /// # Errors
    /// If they are missing or damaged, or the store does not answer.
    pub fn read_loose_texts(&self) -> Result<Vec<SampleText>> {
        let Some(part) = &self.index.loose_texts else {
            return Ok(Vec::new());
        };

        let bytes = self.store.get(&part.name)?;
        let uri = self.store.object_uri(&part.name);
        if sha256(&bytes) != part.sha256 {
            return Err(Error::Data(format!(
                "{uri} is not the file that was indexed: {} bytes with another digest, {} \
                 expected. Upload it again.",
                bytes.len(),
                part.bytes
            )));
        }

        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());

        lines
            .map(
                |line| match SampleLabel::parse_label(Some(line), None).map(|label| label.texts) {
                    Ok(texts) => parse_loose_text(&uri, texts),
                    Err(error) => Err(Error::Data(format!(
                        "{uri} is not a list of texts: {error}"
                    ))),
                },
            )
            .collect()
    }
}

fn parse_loose_text(uri: &str, texts: Vec<LabelText>) -> Result<SampleText> {
    match texts.as_slice() {
        [
            LabelText {
                text_id: Some(text_id),
                text,
            },
        ] => Ok(SampleText {
            text_id: text_id.clone(),
            text: text.clone(),
        }),
        _ => Err(Error::Data(format!(
            "{uri} has a line without text_id and text"
        ))),
    }
}

/// The members that can be trusted, and what is wrong with the rest.
fn verify_shard(uri: &str, part: &IndexedFile, bytes: &Bytes) -> (Vec<TarSample>, Option<String>) {
    if sha256(bytes) == part.sha256 {
        let contents = tar::read_tar(bytes);
        let damage = contents.damage.map(|why| format!("Shard {uri}: {why}."));
        return (contents.samples, damage);
    }

    // No sample can be trusted, not even those before the end of a shorter shard: a shard of a data set that was
    // prepared again has the same name, and often fewer bytes.
    let found = bytes.len() as u64;
    let difference = match found.cmp(&part.bytes) {
        Ordering::Equal => "another SHA-256".to_owned(),
        Ordering::Less => format!("{} less", format_size(part.bytes - found)),
        Ordering::Greater => format!("{} more", format_size(found - part.bytes)),
    };

    let damage = format!(
        "Shard {uri} was changed after it was indexed, or its upload was cut off: it has {difference}, and none of \
         its {} pairs is used. Re-upload it, or run `cnclip prepare --shards` again if the change is meant.",
        part.pairs
    );

    (Vec::new(), Some(damage))
}

fn format_size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Shard {
    fn missing(uri: String) -> Self {
        let damage = format!("Shard {uri} is missing. Upload it or prepare the data again.");

        Self {
            uri,
            samples: vec![],
            pairs: vec![],
            damage: Some(damage),
        }
    }

    fn new(
        uri: String,
        members: Vec<TarSample>,
        damage: Option<String>,
        first_image: u64,
        first_pair: u64,
    ) -> Self {
        let mut samples = Vec::with_capacity(members.len());
        let mut pairs = Vec::new();
        for (image_number, member) in (first_image..).zip(members) {
            // The index counted no pair of a label that cannot be read, and said so then.
            let label = member.label.unwrap_or_default();
            let first = first_pair + pairs.len() as u64;
            let texts: Vec<_> = (first..)
                .zip(label.texts)
                .map(|(place, LabelText { text_id, text })| SampleText {
                    text_id: text_id.unwrap_or(ItemId::Number(place)),
                    text,
                })
                .collect();

            let sample = samples.len() as u32;
            pairs.extend((0..texts.len() as u32).map(|text| (sample, text)));

            let image_id = label.image_id.unwrap_or(ItemId::Number(image_number));

            samples.push(Sample {
                image_id,
                key: member.key,
                image: member.image,
                texts,
            });
        }

        Self {
            uri,
            samples,
            pairs,
            damage,
        }
    }
}

#[cfg(test)]
mod tests;
