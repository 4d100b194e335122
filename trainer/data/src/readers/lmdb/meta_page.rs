//! The two meta pages at the start of an LMDB file: where its tree begins, and how long the file must be.
//!
//! # Source
//! `MDB_page` and `MDB_meta` in liblmdb's `mdb.c`, version 0.9, on 64-bit little-endian machines.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;

use super::b_tree::little_endian;

const LMDB_MAGIC: u64 = 0xBEEF_C0DE;
const FORMAT_VERSION: u64 = 1;
/// The page header (16 bytes) and `MDB_meta`.
const META_PAGE_BYTES: usize = 152;

// Where the fields are. The page size has none of its own: it is kept in the record of the first table, that of free
// pages. The second is the main table.
const MAGIC_OFFSET: usize = 16;
const VERSION_OFFSET: usize = 20;
const PAGE_SIZE_OFFSET: usize = 40;
const ENTRIES_OFFSET: usize = 120;
const ROOT_OFFSET: usize = 128;
const LAST_PAGE_OFFSET: usize = 136;
const TRANSACTION_OFFSET: usize = 144;

/// The root of a table without entries.
const NO_PAGE: u64 = u64::MAX;

/// What one of the meta pages says of all pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetaPage {
    /// Bytes of a page.
    pub(super) page_size: u64,
    /// Number of the last page.
    pub(super) last_page: u64,
    /// The page that the main table begins with; `None` if it has no entry.
    pub(super) root: Option<u64>,
    /// Entries of the main table.
    pub(super) entries: u64,
    /// Number of the transaction that wrote it.
    transaction: u64,
}

impl MetaPage {
    /// The one that counts; `None` if this is no LMDB file.
    ///
    /// Transactions write the two meta pages in turn, so that one of them is whole at any time: the one with the
    /// larger number counts.
    pub(super) fn read_newest(file: &File) -> Result<Option<Self>> {
        let Some(first) = Self::read_at(file, 0)? else {
            return Ok(None);
        };

        let second = Self::read_at(file, first.page_size)?;
        let newer = second.filter(|second| second.transaction > first.transaction);
        Ok(Some(newer.unwrap_or(first)))
    }

    /// How long the file must be to hold all pages.
    pub(super) fn required_bytes(&self) -> u64 {
        self.page_size * (self.last_page + 1)
    }

    fn read_at(file: &File, offset: u64) -> Result<Option<Self>> {
        let mut bytes = [0; META_PAGE_BYTES];
        match file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }

        let meta = Self {
            page_size: little_endian(&bytes, PAGE_SIZE_OFFSET, 4),
            last_page: little_endian(&bytes, LAST_PAGE_OFFSET, 8),
            root: Some(little_endian(&bytes, ROOT_OFFSET, 8)).filter(|&root| root != NO_PAGE),
            entries: little_endian(&bytes, ENTRIES_OFFSET, 8),
            transaction: little_endian(&bytes, TRANSACTION_OFFSET, 8),
        };

        // A page is at least 512 bytes and at most 64 KiB, and no file has 2⁴⁸ of them: within these bounds the
        // required size cannot overflow.
        let plausible = (1 << 9..=1 << 16).contains(&meta.page_size) && meta.last_page < 1 << 48;
        let is_lmdb = little_endian(&bytes, MAGIC_OFFSET, 4) == LMDB_MAGIC
            && little_endian(&bytes, VERSION_OFFSET, 4) == FORMAT_VERSION;

        Ok((is_lmdb && plausible).then_some(meta))
    }
}
