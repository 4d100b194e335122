//! The reference's image file `<split>_imgs.tsv`: image id, tab, the encoded image in base64.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::base64_value::decode_image_value;
use super::split_layout::{SplitFiles, SplitLocation};
use super::{DatasetReader, ImageReader, ensure_not_empty};
use crate::error::{Error, Result};
use crate::json::strip_byte_order_mark;
use crate::shard::ItemId;

/// Bytes of an unusable line that its error quotes.
const MAX_QUOTED_BYTES: usize = 40;
/// Lines are as long as images are, so a small buffer would be refilled many times a line.
const SCAN_BUFFER_BYTES: usize = 1 << 20;

/// The images of a file of lines: scanned once for ids, then read by position.
pub struct TsvImages {
    path: PathBuf,
    file: File,
    ids: Vec<ItemId>,
    /// Where the base64 of each image is, in the order of `ids`.
    spans: Vec<ValueSpan>,
}

/// The part of a line behind the tab.
struct ValueSpan {
    line: u64,
    start: u64,
    length: usize,
}

impl TsvImages {
    /// Finds every image of a file.
    ///
    /// # Errors
    /// If there is no such file, a line has no id, an id has two images, or there is no image.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::file("open", path))?;
        let mut entries = scan_lines(path, &mut file)?;
        // By line too, so that the error of a duplicate names its lines in their order.
        entries.sort_by(|(a, a_span), (b, b_span)| (a, a_span.line).cmp(&(b, b_span.line)));

        let (ids, spans) = entries.into_iter().unzip();
        let mut images = Self {
            path: path.to_owned(),
            file,
            ids,
            spans,
        };

        images.merge_equal_lines()?;
        ensure_not_empty(images)
    }

    /// Keeps the first of lines that are equal: helpers write an image once for each of its texts.
    ///
    /// # Errors
    /// If an id has two images.
    fn merge_equal_lines(&mut self) -> Result<()> {
        let mut repeated = Vec::new();
        for second in 1..self.ids.len() {
            let first = second - 1;
            if self.ids[first] != self.ids[second] {
                continue;
            }

            if self.read_value(first)? != self.read_value(second)? {
                return Err(Error::Data(format!(
                    "{} gives image {} twice, on lines {} and {}, with different bytes. Remove one of them.",
                    self.path.display(),
                    self.ids[first],
                    self.spans[first].line,
                    self.spans[second].line
                )));
            }

            repeated.push(second);
        }

        remove_sorted(&mut self.ids, &repeated);
        remove_sorted(&mut self.spans, &repeated);
        Ok(())
    }

    /// The base64 of an image.
    fn read_value(&mut self, index: usize) -> Result<Vec<u8>> {
        let ValueSpan { start, length, .. } = self.spans[index];
        let mut text = vec![0; length];
        self.file
            .seek(SeekFrom::Start(start))
            .and_then(|_| self.file.read_exact(&mut text))
            .map_err(Error::file("read", &self.path))?;

        Ok(text)
    }
}

impl ImageReader for TsvImages {
    fn source(&self) -> String {
        self.path.display().to_string()
    }

    fn ids(&self) -> &[ItemId] {
        &self.ids
    }

    fn location(&self, index: usize) -> String {
        format!("{} line {}", self.source(), self.spans[index].line)
    }

    fn read_image(&mut self, index: usize) -> Result<Vec<u8>> {
        let text = self.read_value(index)?;
        decode_image_value(text, &self.ids[index], || self.location(index))
    }
}

/// The id and the span of every line that is not blank.
fn scan_lines(path: &Path, file: &mut File) -> Result<Vec<(ItemId, ValueSpan)>> {
    let mut reader = BufReader::with_capacity(SCAN_BUFFER_BYTES, file);
    let mut entries = Vec::new();
    let mut text = Vec::new();
    let mut offset = 0;

    for line in 1.. {
        text.clear();
        let read = reader
            .read_until(b'\n', &mut text)
            .map_err(Error::file("read", path))?;

        if read == 0 {
            break;
        }

        // A file from Windows begins with a byte order mark and ends its lines in \r\n.
        let begin = match line {
            1 => text.len() - strip_byte_order_mark(&text).len(),
            _ => 0,
        };

        let trimmed = text[begin..].trim_ascii_end();
        if !trimmed.is_empty() {
            let (id, tab) =
                parse_image_id(trimmed).ok_or_else(|| line_error(path, line, trimmed))?;
            let span = ValueSpan {
                line,
                start: offset + (begin + tab) as u64 + 1,
                length: trimmed.len() - tab - 1,
            };

            entries.push((id, span));
        }

        offset += read as u64;
    }

    Ok(entries)
}

/// What is before the first tab, and where the tab is.
fn parse_image_id(line: &[u8]) -> Option<(ItemId, usize)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let text = std::str::from_utf8(&line[..tab]).ok()?;
    Some((ItemId::parse(text.trim())?, tab))
}

fn line_error(path: &Path, line: u64, text: &[u8]) -> Error {
    let found = String::from_utf8_lossy(&text[..text.len().min(MAX_QUOTED_BYTES)]);
    Error::Data(format!(
        "{} line {line} begins with {found:?}; expected the id of the image (a whole number, or a name), a \
         tab and the image in base64.",
        path.display()
    ))
}

/// Removes the items at indices that rise.
fn remove_sorted<T>(items: &mut Vec<T>, indices: &[usize]) {
    let mut indices = indices.iter().copied().peekable();
    let mut index = 0;
    items.retain(|_| {
        let is_removed = indices.next_if_eq(&index).is_some();
        index += 1;
        !is_removed
    });
}

/// The name of a split's image file.
pub(super) fn images_file_name(split: &str) -> String {
    format!("{split}_imgs.tsv")
}

/// The name of a split's text file.
pub(super) fn texts_file_name(split: &str) -> String {
    format!("{split}_texts.jsonl")
}

/// `<split>_imgs.tsv` and `<split>_texts.jsonl` in the folder above the split.
pub(super) fn find_split_files(split: &SplitLocation) -> Result<Option<SplitFiles>> {
    let images = images_file_name(&split.name);
    let texts = texts_file_name(&split.name);
    if !split.has_file(&images)? {
        return Ok(None);
    }

    Ok(Some(SplitFiles {
        // The small file first: if it is missing, nothing large was copied in vain.
        names: vec![texts.clone(), images.clone()],
        open: Box::new(move |root| {
            DatasetReader::open_files(&root.join(&images), &root.join(&texts))
        }),
    }))
}
