//! The reference's images in the order of what they are called, one picture at a time. Never looks at
//! what a picture shows.

mod tsv;

use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::lmdb::Lmdb;
use crate::error::{Error, Result};
use crate::shard::Id;
use tsv::Tsv;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The key under which the reference keeps how many images there are.
const NUM_IMAGES: &str = "num_images";

/// The images of a file or a database, by what they are called.
pub struct Images {
    /// What they are called, and which line of a file tells it.
    entries: Vec<(Id, u64)>,
    kept: Kept,
}

enum Kept {
    File(Tsv),
    Database(Lmdb),
}

impl Images {
    /// Finds every image of a file of lines `id`, tab, base64, without keeping any.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, ids) = Tsv::open(path)?;
        let mut entries: Vec<_> = ids.into_iter().zip(file.lines()).collect();
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
            kept: Kept::File(file),
        }
        .filled()
    }

    /// Finds every image of a database that the reference made.
    pub(crate) fn open_database(path: &Path) -> Result<Self> {
        let database = Lmdb::open(path, NUM_IMAGES)?;
        let keys = database.keys(NUM_IMAGES)?;
        let ids = keys.iter().map(|key| Id::read(key).map(|id| (id, 0)));
        let ids: Option<Vec<_>> = ids.collect();
        let mut entries = ids.ok_or_else(|| database.damaged("it has a key of no bytes"))?;

        entries.sort();
        Self {
            entries,
            kept: Kept::Database(database),
        }
        .filled()
    }

    fn filled(self) -> Result<Self> {
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
        match &self.kept {
            Kept::File(file) => file.name(),
            Kept::Database(database) => database.name(),
        }
    }

    pub(crate) fn contains(&self, id: &Id) -> bool {
        self.entries
            .binary_search_by(|(own, _)| own.cmp(id))
            .is_ok()
    }

    /// What the image at a place is called.
    pub fn id(&self, place: usize) -> &Id {
        &self.entries[place].0
    }

    /// Where the image at a place was found.
    pub fn told(&self, place: usize) -> String {
        match (&self.kept, &self.entries[place]) {
            (Kept::File(file), (_, line)) => format!("{} line {line}", file.name()),
            (Kept::Database(database), (id, _)) => format!("{} key {id}", database.name()),
        }
    }

    /// The encoded picture at a place.
    pub fn bytes(&mut self, place: usize) -> Result<Vec<u8>> {
        let (id, line) = &self.entries[place];
        let read = match &mut self.kept {
            Kept::File(file) => decoded(&mut file.text(*line)?),
            Kept::Database(database) => {
                let read = |bytes: &[u8]| Some(decoded(&mut bytes.to_vec()));
                let gone = || database.damaged(&format!("image {id} was taken away"));
                database.get(&id.to_string(), read)?.ok_or_else(gone)?
            }
        };

        read.map_err(|error| {
            let told = self.told(place);
            let id = self.id(place);
            Error::Data(format!(
                "{told}: image {id} is not base64 ({error}). Write it again."
            ))
        })
    }
}

/// What base64 means, in either alphabet, as the reference reads it.
fn decoded(text: &mut [u8]) -> Result<Vec<u8>, base64::DecodeError> {
    for byte in &mut *text {
        *byte = match *byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
    }

    BASE64.decode(text)
}
