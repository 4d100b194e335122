//! One LMDB database of the reference, opened read-only: entries by key, and a count that must agree.

use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn};

use super::DATA_FILE;
use super::meta_page::required_file_size;
use crate::error::{Error, Result};

/// The size of a map must be a multiple of the system's page size; no supported one is larger.
const MAP_ALIGNMENT: u64 = 1 << 16;

/// A database: entries under their keys, and how many there are under one key more.
pub(super) struct LmdbDatabase {
    path: PathBuf,
    env: Env,
    entries: Database<'static, Bytes, Bytes>,
    count_key: &'static str,
    count: u64,
}

impl LmdbDatabase {
    /// Opens the database in a folder; `count_key` is the key of its count.
    ///
    /// # Errors
    /// If there is none, it is torn, or it holds another number of entries than it says.
    pub(super) fn open(path: &Path, count_key: &'static str) -> Result<Self> {
        let bytes = verified_file_size(&path.join(DATA_FILE))?;
        let to_error = |error| lmdb_error(path, error);
        let mut options = EnvOpenOptions::new();
        options.map_size(bytes.next_multiple_of(MAP_ALIGNMENT) as usize);
        // Without a lock file it opens on a volume that is mounted read-only, and leaves nothing behind.
        // SAFETY: nothing is written through this map and no reader is registered; a program that
        // rebuilds the file at the same time could change it below us, as it could any input file.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK);
            options.open(path)
        };

        let env = env.map_err(to_error)?;
        let entries = open_entries(&env).map_err(to_error)?;
        let entries = entries.ok_or_else(|| damaged_database(path, "it has no table"))?;
        let mut database = Self {
            path: path.to_owned(),
            env,
            entries,
            count_key,
            count: 0,
        };

        database.count = database.verified_count()?;
        Ok(database)
    }

    /// How many entries it has.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Its folder, for messages.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// The keys of all entries, in the order of their bytes.
    pub(super) fn entry_keys(&self) -> Result<Vec<String>> {
        let keys = self.with_read_txn(|entries, txn| {
            let key = |entry: heed::Result<(&[u8], &[u8])>| {
                entry.map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            };

            entries
                .iter(txn)?
                .map(key)
                .collect::<heed::Result<Vec<_>>>()
        })?;

        Ok(keys
            .into_iter()
            .filter(|key| key != self.count_key)
            .collect())
    }

    /// What `decode` makes of the value of a key; `None` if there is no such key.
    pub(super) fn get_with<T>(
        &self,
        key: &str,
        decode: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>> {
        // The value is borrowed from the map and must not outlive the transaction.
        self.with_read_txn(|entries, txn| Ok(entries.get(txn, key.as_bytes())?.map(decode)))
    }

    /// That it cannot be used, why, and what to do.
    pub(super) fn damaged_error(&self, why: &str) -> Error {
        damaged_database(&self.path, why)
    }

    /// Its own count, which must be that of its entries.
    ///
    /// The reference writes the count last, so one that is missing or too large means that the program was
    /// stopped, and one that is too small that it wrote over an older database.
    fn verified_count(&self) -> Result<u64> {
        let name = self.count_key;
        let parse = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        let Some(count) = self.get_with(name, parse)?.flatten() else {
            let why = format!("it has no {name}: whatever built it was stopped before its end");
            return Err(self.damaged_error(&why));
        };

        let keys = self.with_read_txn(|entries, txn| entries.len(txn))?;
        let entries = keys.saturating_sub(1);
        if keys > 0 && entries == count {
            return Ok(count);
        }

        let why = match entries > count {
            true => "it was built over an older one, whose entries are still there",
            false => "whatever built it was stopped before its end",
        };

        Err(self.damaged_error(&format!(
            "its {name} says {count}, it holds {entries}: {why}"
        )))
    }

    fn with_read_txn<T>(
        &self,
        work: impl FnOnce(&Database<'static, Bytes, Bytes>, &RoTxn<'_>) -> heed::Result<T>,
    ) -> Result<T> {
        let to_error = |error| lmdb_error(&self.path, error);
        let txn = self.env.read_txn().map_err(to_error)?;
        work(&self.entries, &txn).map_err(to_error)
    }
}

fn open_entries(env: &Env) -> heed::Result<Option<Database<'static, Bytes, Bytes>>> {
    let txn = env.read_txn()?;
    let opened = env.open_databases_and_commit(txn, |opener, txn| {
        opener
            .open_database::<Bytes, Bytes>(txn, None)
            .map(CommitOrAbort::<_, ()>::Commit)
    })?;

    Ok(opened.commit().flatten())
}

/// The size of a database file, which must hold every page that its meta pages name.
///
/// LMDB reads through a memory map and does not check this: a page beyond the end of a torn file would end
/// the process by SIGBUS, which no error handler sees.
fn verified_file_size(file: &Path) -> Result<u64> {
    let (bytes, required) = required_file_size(file)?;
    let Some(required) = required else {
        return Err(damaged_database(file, "it does not begin as LMDB files do"));
    };

    if bytes < required {
        let why = format!("it ends after {bytes} of {required} bytes");
        return Err(damaged_database(file, &why));
    }

    Ok(bytes)
}

fn damaged_database(path: &Path, why: &str) -> Error {
    Error::Data(format!(
        "{} cannot be used: {why}. Copy it again, or delete its folder and build it again.",
        path.display()
    ))
}

fn lmdb_error(path: &Path, error: heed::Error) -> Error {
    damaged_database(path, &error.to_string())
}
