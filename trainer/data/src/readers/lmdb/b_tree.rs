//! The tree of an LMDB file: walked once, page after page, for where each value lies. Every number in it is checked:
//! liblmdb itself trusts the pages that it maps, and a damaged one ends the process by a signal.
//!
//! # Source
//! `MDB_page` and `MDB_node` in liblmdb's `mdb.c`, version 0.9, on 64-bit little-endian machines.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::meta_page::MetaPage;

/// The page header: the page's number, its flags, and the end of the table of its nodes.
const PAGE_HEADER_BYTES: usize = 16;
const PAGE_FLAGS_OFFSET: usize = 10;
const NODE_TABLE_END_OFFSET: usize = 12;
const OVERFLOW_PAGES_OFFSET: usize = 12;
const BRANCH_PAGE: u64 = 0x01;
const LEAF_PAGE: u64 = 0x02;
const OVERFLOW_PAGE: u64 = 0x04;

/// The node header: four bytes of length or six of a page's number, flags of two bytes, and the key's length.
const NODE_HEADER_BYTES: usize = 8;
const NODE_FLAGS_OFFSET: usize = 4;
const KEY_LENGTH_OFFSET: usize = 6;
/// The value lies on pages of its own.
const BIG_VALUE: u64 = 0x01;

/// Levels of a tree: LMDB's own limit.
const MAX_DEPTH: usize = 32;

/// A key, and where its value lies in the file.
#[derive(Debug)]
pub(super) struct LmdbEntry {
    pub(super) key: Box<[u8]>,
    pub(super) value: Range<u64>,
}

/// Why a tree cannot be walked.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
}

/// The entries of the main table, in the order of their keys' bytes, none twice.
///
/// # Errors
/// If a page is not what a whole tree has there.
pub(super) fn read_entries(file: &File, meta: &MetaPage) -> Result<Vec<LmdbEntry>, TreeError> {
    let mut walk = TreeWalk {
        file,
        meta,
        pages_left: meta.last_page + 1,
        entries: Vec::new(),
    };

    if let Some(root) = meta.root {
        walk.visit_page(root, MAX_DEPTH)?;
    }

    let found = walk.entries.len() as u64;
    match found == meta.entries {
        true => Ok(walk.entries),
        false => Err(TreeError::Damaged(format!(
            "its pages hold {found} entries of {}",
            meta.entries
        ))),
    }
}

struct TreeWalk<'a> {
    file: &'a File,
    meta: &'a MetaPage,
    /// A page that is reached twice would be walked without end.
    pages_left: u64,
    entries: Vec<LmdbEntry>,
}

impl TreeWalk<'_> {
    fn visit_page(&mut self, number: u64, depth_left: usize) -> Result<(), TreeError> {
        let broken = || TreeError::Damaged(format!("its page {number} is damaged"));
        self.pages_left = self.pages_left.checked_sub(1).ok_or_else(broken)?;

        let page = self.read_page(number)?.ok_or_else(broken)?;
        let flags = little_endian(&page, PAGE_FLAGS_OFFSET, 2);
        for node in page_nodes(&page).ok_or_else(broken)? {
            if flags & LEAF_PAGE != 0 {
                self.add_entry(number, node)?;
            } else if flags & BRANCH_PAGE != 0 {
                let depth_left = depth_left.checked_sub(1).ok_or_else(broken)?;
                self.visit_page(node.child_page(), depth_left)?;
            } else {
                return Err(broken());
            }
        }

        Ok(())
    }

    /// The bytes of a page; `None` if there is none of this number.
    fn read_page(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        if number > self.meta.last_page {
            return Ok(None);
        }

        let size = self.meta.page_size;
        let mut page = vec![0; size as usize];
        self.file.read_exact_at(&mut page, number * size)?;
        Ok((little_endian(&page, 0, 8) == number).then_some(page))
    }

    fn add_entry(&mut self, page_number: u64, node: Node<'_>) -> Result<(), TreeError> {
        let broken = || TreeError::Damaged(format!("its page {page_number} is damaged"));
        let key = node.key();
        let is_ascending = self.entries.last().is_none_or(|last| *last.key < *key);
        let value = match node.flags() {
            0 => node.inline_value(page_number * self.meta.page_size),
            BIG_VALUE => self.big_value(&node)?,
            // A table within the table, or several values of one key: the reference writes neither.
            _ => None,
        };

        match value {
            Some(value) if is_ascending => {
                let key = key.into();
                self.entries.push(LmdbEntry { key, value });
                Ok(())
            }
            _ => Err(broken()),
        }
    }

    /// A value on pages of its own, whose first has the header.
    fn big_value(&self, node: &Node<'_>) -> io::Result<Option<Range<u64>>> {
        let Some(first) = node
            .value_page()
            .filter(|page| *page <= self.meta.last_page)
        else {
            return Ok(None);
        };

        let start = first * self.meta.page_size;
        let mut header = [0; PAGE_HEADER_BYTES];
        self.file.read_exact_at(&mut header, start)?;
        let is_overflow = little_endian(&header, PAGE_FLAGS_OFFSET, 2) & OVERFLOW_PAGE != 0;
        let pages = little_endian(&header, OVERFLOW_PAGES_OFFSET, 4);

        let value = start + PAGE_HEADER_BYTES as u64;
        let end = value + node.value_length();
        let fits =
            first + pages <= self.meta.last_page + 1 && end <= start + pages * self.meta.page_size;

        Ok((is_overflow && fits).then_some(value..end))
    }
}

/// An entry of a page: in a leaf a key with its value, in a branch a key with the page that it begins.
struct Node<'a> {
    /// From its header to the end of its page.
    bytes: &'a [u8],
    /// Where it lies in its page.
    offset: usize,
    key_length: usize,
}

/// The nodes of a page; `None` if they do not lie in it.
fn page_nodes(page: &[u8]) -> Option<Vec<Node<'_>>> {
    let table_end = little_endian(page, NODE_TABLE_END_OFFSET, 2) as usize;
    let table = page.get(PAGE_HEADER_BYTES..table_end)?;
    let offsets = table.chunks_exact(2);
    offsets
        .map(|offset| {
            let offset = little_endian(offset, 0, 2) as usize;
            let bytes = page.get(offset..)?;
            let header = bytes.get(..NODE_HEADER_BYTES)?;
            let key_length = little_endian(header, KEY_LENGTH_OFFSET, 2) as usize;
            bytes.get(..NODE_HEADER_BYTES + key_length)?;
            Some(Node {
                bytes,
                offset,
                key_length,
            })
        })
        .collect()
}

impl Node<'_> {
    fn key(&self) -> &[u8] {
        &self.bytes[NODE_HEADER_BYTES..self.value_start()]
    }

    fn value_start(&self) -> usize {
        NODE_HEADER_BYTES + self.key_length
    }

    fn flags(&self) -> u64 {
        little_endian(self.bytes, NODE_FLAGS_OFFSET, 2)
    }

    fn value_length(&self) -> u64 {
        little_endian(self.bytes, 0, 4)
    }

    /// A branch keeps a page's number in the places of length and flags.
    fn child_page(&self) -> u64 {
        little_endian(self.bytes, 0, 6)
    }

    /// Where the value lies in the file, of a page at `page_start`.
    fn inline_value(&self, page_start: u64) -> Option<Range<u64>> {
        let length = self.value_length();
        let there = self.bytes.len() - self.value_start();
        let start = page_start + (self.offset + self.value_start()) as u64;
        (length <= there as u64).then(|| start..start + length)
    }

    /// The page at which a big value begins.
    fn value_page(&self) -> Option<u64> {
        let number = self.bytes.get(self.value_start()..)?.get(..8)?;
        Some(little_endian(number, 0, 8))
    }
}

pub(super) fn little_endian(bytes: &[u8], offset: usize, length: usize) -> u64 {
    let digits = bytes[offset..offset + length].iter().rev();
    digits.fold(0, |number, &byte| number << 8 | u64::from(byte))
}
