//! One LMDB database of the reference: entries by key, and a count that must agree.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::DATA_FILE;
use super::b_tree::{LmdbEntry, TreeError, read_entries};
use super::meta_page::MetaPage;
use crate::error::{Error, Result};

/// A database: entries under their keys, and how many there are under one key more.
pub(super) struct LmdbDatabase {
    path: PathBuf,
    file: File,
    /// In the order of their keys' bytes, without that of the count.
    entries: Vec<LmdbEntry>,
}

impl LmdbDatabase {
    /// Opens the database in a folder; `count_key` is the key of its count.
    ///
    /// # Errors
    /// If there is none, it is torn or damaged, or it holds another number of entries than it says.
    pub(super) fn open(path: &Path, count_key: &'static str) -> Result<Self> {
        let data_file = path.join(DATA_FILE);
        let file = File::open(&data_file).map_err(Error::file("open", &data_file))?;
        let meta = verified_meta_page(&file, &data_file)?;
        let entries = read_entries(&file, &meta).map_err(|error| match error {
            TreeError::Read(error) => Error::file("read", &data_file)(error),
            TreeError::Damaged(why) => damaged_database(path, &why),
        })?;

        let mut database = Self {
            path: path.to_owned(),
            file,
            entries,
        };

        database.remove_count(count_key)?;
        Ok(database)
    }

    /// How many entries it has.
    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Its folder, for messages.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// The keys of all entries, in the order of their bytes.
    pub(super) fn entry_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| &*entry.key)
    }

    /// The value of a key; `None` if there is no such key.
    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let found = self
            .entries
            .binary_search_by(|entry| (*entry.key).cmp(key.as_bytes()));

        let Ok(index) = found else {
            return Ok(None);
        };

        self.read_value(&self.entries[index]).map(Some)
    }

    /// That it cannot be used, why, and what to do.
    pub(super) fn damaged_error(&self, why: &str) -> Error {
        damaged_database(&self.path, why)
    }

    fn read_value(&self, entry: &LmdbEntry) -> Result<Vec<u8>> {
        let mut value = vec![0; (entry.value.end - entry.value.start) as usize];
        self.file
            .read_exact_at(&mut value, entry.value.start)
            .map_err(Error::file("read", self.path.join(DATA_FILE)))?;

        Ok(value)
    }

    /// Takes its own count out of the entries, whose number it must be.
    ///
    /// The reference writes the count last, so one that is missing or too large means that the program was
    /// stopped, and one that is too small that it wrote over an older database.
    fn remove_count(&mut self, name: &str) -> Result<()> {
        let count = self
            .get(name)?
            .and_then(|value| std::str::from_utf8(&value).ok()?.parse::<u64>().ok());

        let Some(count) = count else {
            let why = format!("it has no {name}: whatever built it was stopped before its end");
            return Err(self.damaged_error(&why));
        };

        self.entries.retain(|entry| *entry.key != *name.as_bytes());
        let entries = self.count();
        if entries == count {
            return Ok(());
        }

        let why = match entries > count {
            true => "it was built over an older one, whose entries are still there",
            false => "whatever built it was stopped before its end",
        };

        Err(self.damaged_error(&format!(
            "its {name} says {count}, it holds {entries}: {why}"
        )))
    }
}

/// The meta page of a file that holds every page that it names: a torn file is found before it is read.
fn verified_meta_page(file: &File, path: &Path) -> Result<MetaPage> {
    let bytes = file.metadata().map_err(Error::file("read", path))?.len();
    let meta = MetaPage::read_newest(file).map_err(Error::file("read", path))?;
    let meta = meta.ok_or_else(|| damaged_database(path, "it does not begin as LMDB files do"))?;

    let required = meta.required_bytes();
    if bytes < required {
        let why = format!("it ends after {bytes} of {required} bytes");
        return Err(damaged_database(path, &why));
    }

    Ok(meta)
}

fn damaged_database(path: &Path, why: &str) -> Error {
    Error::Data(format!(
        "{} cannot be used: {why}. Copy it again, or delete its folder and build it again.",
        path.display()
    ))
}
