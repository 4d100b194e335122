//! Packs samples into shards of a bounded size, whose bytes depend on nothing but the samples.
//! Never holds more than one shard.

use serde::Serialize;

use super::text_index::TextWithId;
use crate::error::{Error, Result};
use crate::shard::{IndexedFile, ItemId};
use crate::store::Store;

#[derive(Serialize)]
struct LabelJson<'a> {
    image_id: &'a ItemId,
    texts: &'a [TextWithId<'a>],
}

/// Writes shards `00000.tar`, `00001.tar` … to a store.
pub(super) struct ShardWriter<'a> {
    output: &'a Store,
    shard_bytes: u64,
    parts: Vec<IndexedFile>,
    archive: tar::Builder<Vec<u8>>,
    images: u64,
    pairs: u64,
}

impl<'a> ShardWriter<'a> {
    pub(super) fn new(output: &'a Store, shard_bytes: u64) -> Self {
        Self {
            output,
            shard_bytes,
            parts: Vec::new(),
            archive: tar::Builder::new(Vec::new()),
            images: 0,
            pairs: 0,
        }
    }

    /// Bytes of shards so far, the open one included.
    pub(super) fn total_bytes(&self) -> u64 {
        let closed: u64 = self.parts.iter().map(|part| part.bytes).sum();
        closed + self.archive.get_ref().len() as u64
    }

    /// Adds an image with its texts. Its files are named by its number, or by its index among all images: a name
    /// may contain anything, slashes and dots too.
    pub(super) fn add_sample(
        &mut self,
        image_id: &ItemId,
        index: usize,
        extension: &str,
        image: &[u8],
        texts: &[TextWithId<'_>],
    ) -> Result<()> {
        let label = serde_json::to_vec(&LabelJson { image_id, texts })
            .map_err(|error| Error::Bug(format!("cannot write a label as JSON: {error}")))?;
        let key = match image_id {
            ItemId::Number(number) => format!("{number:012}"),
            ItemId::Name(_) => format!("named-{index:012}"),
        };

        let image_name = format!("{key}.{extension}");
        let label_name = format!("{key}.json");
        self.append_file(&image_name, image)?;
        self.append_file(&label_name, &label)?;

        self.images += 1;
        self.pairs += texts.len() as u64;

        // Checked behind a sample, so that none is cut: a shard is larger than asked for by one sample at most.
        let bytes = self.archive.get_ref().len() as u64;
        match bytes >= self.shard_bytes {
            true => self.close_shard(),
            false => Ok(()),
        }
    }

    /// Closes the last shard; says what was written.
    pub(super) fn finish_shards(mut self) -> Result<Vec<IndexedFile>> {
        if self.images > 0 {
            self.close_shard()?;
        }
        Ok(self.parts)
    }

    fn append_file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        // A new header has neither time nor owner: equal samples make equal bytes, and equal digests.
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.archive
            .append_data(&mut header, name, bytes)
            .map_err(Error::file("write", name))
    }

    fn close_shard(&mut self) -> Result<()> {
        let name = format!("{:05}.tar", self.parts.len());
        let next = tar::Builder::new(Vec::new());
        let archive = std::mem::replace(&mut self.archive, next);
        let bytes = archive.into_inner().map_err(Error::file("write", &name))?;

        let images = std::mem::take(&mut self.images);
        let pairs = std::mem::take(&mut self.pairs);
        let part = IndexedFile::new(&name, &bytes, images, pairs);

        self.parts.push(part);
        self.output.put(&name, bytes.into())
    }
}
