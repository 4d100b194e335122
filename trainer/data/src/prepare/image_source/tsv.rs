//! Finds the lines of the reference's image file, and reads the rest of one again. Knows no pictures.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::shard::ItemId;

/// What follows the tab of a line.
struct ValueSpan {
    line: u64,
    start: u64,
    length: usize,
}

/// A file of lines `id`, tab, text.
pub(super) struct TsvReader {
    path: PathBuf,
    file: File,
    spans: Vec<ValueSpan>,
}

impl TsvReader {
    /// The file, and what its lines are called.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<ItemId>)> {
        let mut file = File::open(path).map_err(Error::file("open", path))?;
        let (spans, ids) = scan_lines(path, &mut file)?;
        Ok((
            Self {
                path: path.to_owned(),
                file,
                spans,
            },
            ids,
        ))
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The numbers of its lines that are not blank.
    pub(super) fn line_numbers(&self) -> impl Iterator<Item = u64> {
        self.spans.iter().map(|span| span.line)
    }

    /// What follows the tab of a line.
    pub(super) fn read_value(&mut self, line: u64) -> Result<Vec<u8>> {
        let found = self.spans.binary_search_by_key(&line, |span| span.line);
        let Ok(ValueSpan { start, length, .. }) = found.map(|place| &self.spans[place]) else {
            return Err(Error::Bug(format!("{} has no line {line}", self.name())));
        };

        let mut text = vec![0; *length];
        self.file
            .seek(SeekFrom::Start(*start))
            .and_then(|_| self.file.read_exact(&mut text))
            .map_err(Error::file("read", &self.path))?;

        Ok(text)
    }
}

fn scan_lines(path: &Path, file: &mut File) -> Result<(Vec<ValueSpan>, Vec<ItemId>)> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut spans = Vec::new();
    let mut ids = Vec::new();
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

        let trimmed = text.trim_ascii_end();
        if !trimmed.is_empty() {
            let (id, tab) = parse_image_id(trimmed).ok_or_else(|| {
                let found = String::from_utf8_lossy(&trimmed[..trimmed.len().min(40)]);
                Error::Data(format!(
                    "{} line {line} begins with {found:?}; expected what the image is called (a \
                     whole number, or a name), a tab and the picture in base64.",
                    path.display()
                ))
            })?;

            let start = offset + tab as u64 + 1;
            let length = trimmed.len() - tab - 1;
            spans.push(ValueSpan {
                line,
                start,
                length,
            });

            ids.push(id);
        }

        offset += read as u64;
    }

    Ok((spans, ids))
}

/// What is before the first tab, and where the tab is.
fn parse_image_id(line: &[u8]) -> Option<(ItemId, usize)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let text = std::str::from_utf8(&line[..tab]).ok()?;
    Some((ItemId::parse(text.trim())?, tab))
}
