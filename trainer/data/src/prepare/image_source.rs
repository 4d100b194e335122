//! The reference's images in the order of what they are called, one picture at a time. Never looks at
//! what a picture shows.

mod tsv;

use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::lmdb::LmdbReader;
use crate::error::{Error, Result};
use crate::shard::ItemId;
use tsv::TsvReader;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The key under which the reference keeps how many images there are.
const NUM_IMAGES_KEY: &str = "num_images";

/// The images of a file or a database, by what they are called.
pub struct ImageSource {
    /// What they are called, and which line of a file tells it.
    entries: Vec<(ItemId, u64)>,
    backend: ImageBackend,
}

enum ImageBackend {
    Tsv(TsvReader),
    Lmdb(LmdbReader),
}

impl ImageSource {
    /// Finds every image of a file of lines `id`, tab, base64, without keeping any.
    pub fn open_tsv(path: &Path) -> Result<Self> {
        let (file, ids) = TsvReader::open(path)?;
        let mut entries: Vec<_> = ids.into_iter().zip(file.line_numbers()).collect();
        entries.sort();

        if let Some(twice) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::Data(format!(
                "{} gives image {} twice, on lines {} and {}. Remove one of them.",
                path.display(),
                twice[0].0,
                twice[0].1,
                twice[1].1
            )));
        }

        Self {
            entries,
            backend: ImageBackend::Tsv(file),
        }
        .ensure_not_empty()
    }

    /// Finds every image of a database that the reference made.
    pub(crate) fn open_lmdb(path: &Path) -> Result<Self> {
        let database = LmdbReader::open(path, NUM_IMAGES_KEY)?;
        let keys = database.entry_keys(NUM_IMAGES_KEY)?;
        let ids = keys.iter().map(|key| ItemId::parse(key).map(|id| (id, 0)));
        let ids: Option<Vec<_>> = ids.collect();
        let mut entries = ids.ok_or_else(|| database.damaged_error("it has a key of no bytes"))?;

        entries.sort();
        Self {
            entries,
            backend: ImageBackend::Lmdb(database),
        }
        .ensure_not_empty()
    }

    fn ensure_not_empty(self) -> Result<Self> {
        match self.entries.is_empty() {
            true => Err(Error::Data(format!("{} holds no image", self.name()))),
            false => Ok(self),
        }
    }

    /// How many images it is.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn name(&self) -> String {
        match &self.backend {
            ImageBackend::Tsv(file) => file.name(),
            ImageBackend::Lmdb(database) => database.name(),
        }
    }

    pub(crate) fn contains_id(&self, id: &ItemId) -> bool {
        self.entries
            .binary_search_by(|(own, _)| own.cmp(id))
            .is_ok()
    }

    /// What the image at a place is called.
    pub fn image_id(&self, place: usize) -> &ItemId {
        &self.entries[place].0
    }

    /// Where the image at a place was found.
    pub fn image_location(&self, place: usize) -> String {
        match (&self.backend, &self.entries[place]) {
            (ImageBackend::Tsv(file), (_, line)) => format!("{} line {line}", file.name()),
            (ImageBackend::Lmdb(database), (id, _)) => format!("{} key {id}", database.name()),
        }
    }

    /// The encoded picture at a place.
    pub fn read_image(&mut self, place: usize) -> Result<Vec<u8>> {
        let (id, line) = &self.entries[place];
        let read = match &mut self.backend {
            ImageBackend::Tsv(file) => decode_base64(&mut file.read_value(*line)?),
            ImageBackend::Lmdb(database) => {
                let read = |bytes: &[u8]| Some(decode_base64(&mut bytes.to_vec()));
                let gone = || database.damaged_error(&format!("image {id} was taken away"));
                database.get_with(&id.to_string(), read)?.ok_or_else(gone)?
            }
        };

        read.map_err(|error| {
            let told = self.image_location(place);
            let id = self.image_id(place);
            Error::Data(format!(
                "{told}: image {id} is not base64 ({error}). Write it again."
            ))
        })
    }
}

/// What base64 means, in either alphabet, as the reference reads it.
fn decode_base64(text: &mut [u8]) -> Result<Vec<u8>, base64::DecodeError> {
    for byte in &mut *text {
        *byte = match *byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
    }

    BASE64.decode(text)
}
