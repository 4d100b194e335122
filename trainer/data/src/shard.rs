//! Where samples come from: WebDataset tars beside one index of counts and digests. Decides what
//! is whole and what is torn; never shuffles, and never decodes a picture.

mod id;
mod index;
mod label;
mod tar;

use std::sync::Arc;

use bytes::Bytes;
use cnclip_compute::digest::sha256;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use id::Id;
pub use index::{INDEX, Index, Part};
pub use label::{Label, Text};
pub use tar::{Member, read as read_tar};

use crate::error::{Error, Result};
use crate::store::{Fault, Store};

/// A caption with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// What the data set calls the text, else its place among all pairs.
    pub text_id: Id,
    /// The text.
    pub text: String,
}

/// One image with its captions.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the data set calls the image, else its place among all images.
    pub image_id: Id,
    /// What its files are called in the shard.
    pub key: String,
    /// The encoded picture.
    pub image: Bytes,
    /// Its captions; none for an image that only evaluation uses.
    pub captions: Vec<Caption>,
}

/// The samples of one shard that could be read.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Where it is.
    pub uri: String,
    /// Its samples, in their order.
    pub samples: Vec<Sample>,
    /// `(sample, caption)` of every pair, in their order.
    pub pairs: Vec<(u32, u32)>,
    /// Why there are fewer pairs than the index says, ready to be told.
    pub damage: Option<String>,
}

/// A data set: shards and their index.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Store,
    index: Arc<Index>,
    /// The folder of shards that were made for it alone.
    _own: Option<Arc<TempDir>>,
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
        let index = Arc::new(Index::read(&store)?);
        Ok(Self {
            store,
            index,
            _own: None,
        })
    }

    /// The same, whose shards are in a folder that nobody else uses: it goes with the last clone.
    pub(super) fn within(self, folder: TempDir) -> Self {
        Self {
            _own: Some(Arc::new(folder)),
            ..self
        }
    }

    /// What is in it.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        self.store.uri()
    }

    /// Reads a shard and compares it with the index. A shard that is missing, torn or changed is
    /// no error: it comes back with the samples that can be trusted and the damage told.
    ///
    /// # Errors
    /// If the store does not answer.
    pub fn shard(&self, number: usize) -> Result<Shard> {
        let part = (self.index.shards.get(number))
            .ok_or_else(|| Error::Bug(format!("{} has no shard {number}", self.uri())))?;
        let uri = self.store.uri_of(&part.name);
        let bytes = match self.store.get(&part.name) {
            Ok(bytes) => bytes,
            Err(Error::Store(fault)) if fault.fault == Fault::Missing => {
                let damage =
                    format!("Shard {uri} is missing. Upload it or prepare the data again.");
                return Ok(Shard {
                    uri,
                    samples: vec![],
                    pairs: vec![],
                    damage: Some(damage),
                });
            }
            Err(error) => return Err(error),
        };

        let before = self.index.shards[..number].iter();
        let (images, pairs) = before.fold((0, 0), |(i, p), s| (i + s.images, p + s.pairs));
        let (members, damage) = verify(&uri, part, &bytes);
        Ok(Shard::new(uri, members, damage, images, pairs))
    }

    /// The texts that belong to no image.
    ///
    /// # Errors
    /// If they are missing or damaged, or the store does not answer.
    pub fn loose_texts(&self) -> Result<Vec<Caption>> {
        let Some(part) = &self.index.loose_texts else {
            return Ok(Vec::new());
        };

        let bytes = self.store.get(&part.name)?;
        let uri = self.store.uri_of(&part.name);
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
                |line| match Label::read(Some(line), None).map(|label| label.texts) {
                    Ok(texts) => numbered(&uri, texts),
                    Err(error) => Err(Error::Data(format!(
                        "{uri} is not a list of texts: {error}"
                    ))),
                },
            )
            .collect()
    }
}

fn numbered(uri: &str, texts: Vec<Text>) -> Result<Caption> {
    match texts.as_slice() {
        [
            Text {
                text_id: Some(text_id),
                text,
            },
        ] => Ok(Caption {
            text_id: text_id.clone(),
            text: text.clone(),
        }),
        _ => Err(Error::Data(format!(
            "{uri} has a line without text_id and text"
        ))),
    }
}

/// The members that can be trusted, and what is wrong with the rest.
fn verify(uri: &str, part: &Part, bytes: &Bytes) -> (Vec<Member>, Option<String>) {
    let found = bytes.len() as u64;
    if found == part.bytes && sha256(bytes) != part.sha256 {
        let damage = format!(
            "Shard {uri} was changed after it was indexed (its SHA-256 is not {}). Re-upload it, or \
             run `cnclip prepare --shards` again if the change is meant.",
            part.sha256
        );

        return (Vec::new(), Some(damage));
    }

    let (members, torn) = tar::read(bytes);
    let damage = match found.cmp(&part.bytes) {
        std::cmp::Ordering::Equal => torn.map(|why| format!("Shard {uri} is no tar: {why}.")),
        std::cmp::Ordering::Less => Some(format!(
            "Shard {uri} ends after {} of {} (sample {} of {}). Re-upload it.",
            size(found),
            size(part.bytes),
            members.len(),
            part.images
        )),
        std::cmp::Ordering::Greater => Some(format!(
            "Shard {uri} has {} more than when it was indexed. Re-upload it, or index again.",
            size(found - part.bytes)
        )),
    };

    match found > part.bytes {
        true => (Vec::new(), damage),
        false => (members, damage),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Shard {
    fn new(
        uri: String,
        members: Vec<Member>,
        damage: Option<String>,
        first_image: u64,
        first_pair: u64,
    ) -> Self {
        let mut samples = Vec::with_capacity(members.len());
        let mut pairs = Vec::new();
        for (
            image,
            Member {
                key,
                image: bytes,
                label,
            },
        ) in (first_image..).zip(members)
        {
            // The index counted no pair of a label that cannot be read, and said so then.
            let label = label.unwrap_or_default();
            let first = first_pair + pairs.len() as u64;
            let captions: Vec<_> = (first..)
                .zip(label.texts)
                .map(|(place, Text { text_id, text })| Caption {
                    text_id: text_id.unwrap_or(Id::Number(place)),
                    text,
                })
                .collect();

            let sample = samples.len() as u32;
            pairs.extend((0..captions.len() as u32).map(|caption| (sample, caption)));
            let image_id = label.image_id.unwrap_or(Id::Number(image));
            samples.push(Sample {
                image_id,
                key,
                image: bytes,
                captions,
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
