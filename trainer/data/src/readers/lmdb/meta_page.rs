//! The two meta pages at the start of an LMDB file, which say how long the file must be.
//!
//! # Source
//! `MDB_page` and `MDB_meta` in liblmdb's `mdb.c`, version 0.9, on 64-bit little-endian machines.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};

const LMDB_MAGIC: u64 = 0xBEEF_C0DE;
/// The page header (16 bytes) and `MDB_meta`.
const META_PAGE_BYTES: usize = 152;

// Where the fields are. The page size has none of its own: it is kept in the first database record.
const MAGIC_OFFSET: usize = 16;
const PAGE_SIZE_OFFSET: usize = 40;
const LAST_PAGE_OFFSET: usize = 136;
const TRANSACTION_OFFSET: usize = 144;

/// What one of the meta pages says of all pages.
#[derive(Clone, Copy)]
struct MetaPage {
    /// Bytes of a page.
    page_size: u64,
    /// Number of the last page.
    last_page: u64,
    /// Number of the transaction that wrote it.
    transaction: u64,
}

/// How long a file is, and how long its newest meta page says; `None` if it is no LMDB file.
pub(super) fn required_file_size(path: &Path) -> Result<(u64, Option<u64>)> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let bytes = file.metadata().map_err(Error::file("read", path))?.len();

    let newest = newest_meta_page(&mut file).map_err(Error::file("read", path))?;

    let required = newest.map(|page| {
        let pages = page.last_page + 1;
        page.page_size * pages
    });

    Ok((bytes, required))
}

/// Transactions write the two meta pages in turn, so that one of them is whole at any time: the one with the
/// larger number counts.
fn newest_meta_page(file: &mut File) -> std::io::Result<Option<MetaPage>> {
    let Some(first) = read_meta_page(file, 0)? else {
        return Ok(None);
    };

    let second = read_meta_page(file, first.page_size)?;
    let newer = second.filter(|second| second.transaction > first.transaction);
    Ok(Some(newer.unwrap_or(first)))
}

fn read_meta_page(file: &mut File, offset: u64) -> std::io::Result<Option<MetaPage>> {
    let mut bytes = [0; META_PAGE_BYTES];
    file.seek(SeekFrom::Start(offset))?;
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }

    let meta = MetaPage {
        page_size: little_endian(&bytes, PAGE_SIZE_OFFSET, 4),
        last_page: little_endian(&bytes, LAST_PAGE_OFFSET, 8),
        transaction: little_endian(&bytes, TRANSACTION_OFFSET, 8),
    };

    // A page is at least 512 bytes and at most 64 KiB, and no file has 2⁴⁸ of them: within these bounds the
    // required size cannot overflow.
    let plausible = (1 << 9..=1 << 16).contains(&meta.page_size) && meta.last_page < 1 << 48;
    let is_lmdb = little_endian(&bytes, MAGIC_OFFSET, 4) == LMDB_MAGIC;
    Ok((is_lmdb && plausible).then_some(meta))
}

fn little_endian(bytes: &[u8], offset: usize, length: usize) -> u64 {
    let digits = bytes[offset..offset + length].iter().rev();
    digits.fold(0, |number, &byte| number << 8 | u64::from(byte))
}
