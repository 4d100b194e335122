//! Packs samples into shards of a bounded size with bytes that depend on nothing but the samples.
//! Never holds more than one shard.

use serde::Serialize;

use super::texts::Numbered;
use crate::error::{Error, Result};
use crate::shard::{Id, Part};
use crate::store::Store;

#[derive(Serialize)]
struct Label<'a> {
    image_id: &'a Id,
    texts: &'a [Numbered<'a>],
}

/// Writes shards `00000.tar`, `00001.tar` … to a store.
pub(super) struct Writer<'a> {
    output: &'a Store,
    shard_bytes: u64,
    parts: Vec<Part>,
    open: tar::Builder<Vec<u8>>,
    images: u64,
    pairs: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(output: &'a Store, shard_bytes: u64) -> Self {
        let open = tar::Builder::new(Vec::new());
        Self {
            output,
            shard_bytes,
            parts: Vec::new(),
            open,
            images: 0,
            pairs: 0,
        }
    }

    /// Bytes of shards so far, the open one included.
    pub(super) fn bytes(&self) -> u64 {
        let closed: u64 = self.parts.iter().map(|part| part.bytes).sum();
        closed + self.open.get_ref().len() as u64
    }

    /// Adds an image with its texts. Its files are called after its number, or after its place among
    /// all images: a name may hold anything.
    pub(super) fn add(
        &mut self,
        (image_id, place): (&Id, usize),
        extension: &str,
        image: &[u8],
        texts: &[Numbered<'_>],
    ) -> Result<()> {
        let label = serde_json::to_vec(&Label { image_id, texts })
            .map_err(|error| Error::Bug(format!("cannot write a label as JSON: {error}")))?;
        let key = match image_id {
            Id::Number(number) => format!("{number:012}"),
            Id::Name(_) => format!("named-{place:012}"),
        };

        self.append(&format!("{key}.{extension}"), image)?;
        self.append(&format!("{key}.json"), &label)?;
        self.images += 1;
        self.pairs += texts.len() as u64;

        match self.open.get_ref().len() as u64 >= self.shard_bytes {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Closes the last shard; says what was written.
    pub(super) fn finish(mut self) -> Result<Vec<Part>> {
        if self.images > 0 {
            self.close()?;
        }
        Ok(self.parts)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.open
            .append_data(&mut header, name, bytes)
            .map_err(Error::file("write", name))
    }

    fn close(&mut self) -> Result<()> {
        let open = std::mem::replace(&mut self.open, tar::Builder::new(Vec::new()));
        let name = format!("{:05}.tar", self.parts.len());
        let bytes = open.into_inner().map_err(Error::file("write", &name))?;
        let images = std::mem::take(&mut self.images);
        let pairs = std::mem::take(&mut self.pairs);

        self.parts.push(Part::new(&name, &bytes, images, pairs));
        self.output.put(&name, bytes.into())
    }
}
