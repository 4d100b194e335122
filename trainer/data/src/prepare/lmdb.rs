//! Reads one of the LMDB databases that the reference builds. Knows keys and values, and no pictures;
//! changes nothing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn};

use crate::error::{Error, Result};

/// What maps are a multiple of.
const MAP_ALIGNMENT: u64 = 1 << 16;
/// Where pages begin to be of the file's own size, and what each of the first two tells.
const LMDB_MAGIC: u32 = 0xBEEF_C0DE;
const META_PAGE_BYTES: usize = 152;

/// A database of the reference: entries under keys in ASCII digits, and their number under one more.
pub(super) struct LmdbReader {
    path: PathBuf,
    env: Env,
    entries: Database<'static, Bytes, Bytes>,
    /// How many entries its own count says.
    pub(super) count: u64,
}

impl LmdbReader {
    /// Opens the database in a folder; `counter` is the key of its count.
    ///
    /// # Errors
    /// If there is none, it is torn, or it holds another number of entries than it says.
    pub(super) fn open(path: &Path, counter: &'static str) -> Result<Self> {
        let bytes = verified_file_size(&path.join("data.mdb"))?;
        let unfit = |error| lmdb_error(path, error);
        let mut options = EnvOpenOptions::new();
        options.map_size(bytes.next_multiple_of(MAP_ALIGNMENT) as usize);
        // SAFETY: nothing is written through this map and no reader is registered; a program that
        // rebuilds the file at the same time could change it below us, as it could any input file.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK);
            options.open(path)
        };

        let env = env.map_err(unfit)?;
        let entries = open_entries(&env).map_err(unfit)?;
        let entries = entries.ok_or_else(|| damaged_database(path, "it has no table"))?;
        let mut found = Self {
            path: path.to_owned(),
            env,
            entries,
            count: 0,
        };

        found.count = found.verified_count(counter)?;
        Ok(found)
    }

    /// Its own count, which must be that of its entries.
    fn verified_count(&self, counter: &str) -> Result<u64> {
        let Some(count) = self.get_with(counter, |bytes| {
            std::str::from_utf8(bytes).ok()?.parse().ok()
        })?
        else {
            let why = format!("it has no {counter}: whatever built it was stopped before its end");
            return Err(damaged_database(&self.path, &why));
        };

        let entries = self.with_read_txn(|entries, read| entries.len(read))?;
        match entries.checked_sub(1) {
            Some(entries) if entries == count => Ok(count),
            other => {
                let entries = other.unwrap_or(0);
                let why = match entries > count {
                    true => "it was built over an older one, whose entries are still there",
                    false => "whatever built it was stopped before its end",
                };

                let counts = format!("its {counter} says {count}, it holds {entries}: {why}");
                Err(damaged_database(&self.path, &counts))
            }
        }
    }

    /// Every key that is a number or a name of an entry, in the order of their bytes.
    pub(super) fn entry_keys(&self, counter: &str) -> Result<Vec<String>> {
        let found = self.with_read_txn(|entries, read| {
            let key = |entry: heed::Result<(&[u8], &[u8])>| {
                entry.map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            };

            entries
                .iter(read)?
                .map(key)
                .collect::<heed::Result<Vec<_>>>()
        })?;

        Ok(found.into_iter().filter(|key| key != counter).collect())
    }

    /// What `use_it` makes of an entry; `None` if there is none, or it makes none of it.
    pub(super) fn get_with<T>(
        &self,
        key: &str,
        use_it: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        self.with_read_txn(|entries, read| Ok(entries.get(read, key.as_bytes())?.and_then(use_it)))
    }

    /// What cannot be used of it, and what to do.
    pub(super) fn damaged_error(&self, why: &str) -> Error {
        damaged_database(&self.path, why)
    }

    /// Where it is.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn with_read_txn<T>(
        &self,
        work: impl FnOnce(&Database<'static, Bytes, Bytes>, &RoTxn<'_>) -> heed::Result<T>,
    ) -> Result<T> {
        let unfit = |error| lmdb_error(&self.path, error);
        let read = self.env.read_txn().map_err(unfit)?;
        work(&self.entries, &read).map_err(unfit)
    }
}

fn open_entries(env: &Env) -> heed::Result<Option<Database<'static, Bytes, Bytes>>> {
    let read = env.read_txn()?;
    let opened = env.open_databases_and_commit(read, |opener, read| {
        opener
            .open_database::<Bytes, Bytes>(read, None)
            .map(CommitOrAbort::<_, ()>::Commit)
    })?;

    Ok(opened.commit().flatten())
}

/// The size of a database file, which must hold every page that it says it has: reading behind the end
/// of a torn one would end the process.
fn verified_file_size(path: &Path) -> Result<u64> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let bytes = file.metadata().map_err(Error::file("read", path))?.len();
    let first = read_meta_page(&mut file, 0).map_err(Error::file("read", path))?;
    let Some(first) = first else {
        return Err(damaged_database(path, "it does not begin as LMDB files do"));
    };

    let second = read_meta_page(&mut file, first.page_size).map_err(Error::file("read", path))?;
    let newest = second
        .filter(|second| second.transaction > first.transaction)
        .unwrap_or(first);

    let needed = newest.page_size * (newest.last_page + 1);
    match bytes < needed {
        true => Err(damaged_database(
            path,
            &format!("it ends after {bytes} of {needed} bytes"),
        )),
        false => Ok(bytes),
    }
}

/// What one of a file's first two pages says of all pages.
#[derive(Clone, Copy)]
struct LmdbMetaPage {
    /// Bytes of a page.
    page_size: u64,
    /// Number of the last page.
    last_page: u64,
    transaction: u64,
}

fn read_meta_page(file: &mut File, at: u64) -> std::io::Result<Option<LmdbMetaPage>> {
    let mut bytes = [0; META_PAGE_BYTES];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }

    let number = |at: usize, size: usize| {
        let bytes = &bytes[at..at + size];
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    };

    let meta = LmdbMetaPage {
        page_size: number(40, 4),
        last_page: number(136, 8),
        transaction: number(144, 8),
    };

    // A page is at least 512 bytes and at most 64 KiB, and no file has 2⁴⁸ of them.
    let sane = (1 << 9..=1 << 16).contains(&meta.page_size) && meta.last_page < 1 << 48;
    Ok((number(16, 4) == u64::from(LMDB_MAGIC) && sane).then_some(meta))
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

#[cfg(test)]
mod tests;
