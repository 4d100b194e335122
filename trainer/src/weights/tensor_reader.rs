//! Reads values of tensors in the order in which they lie in their files: each byte once, in large requests of which
//! several are on their way, and proven where the file's digest is known. Knows no names and no models.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::tensor_file::TensorFile;
use crate::error::{Error, Result};
use cnclip_compute::digest::hex;
use cnclip_data::store::ObjectParts;

/// Values that lie closer to each other are read in one pass: what is between costs less than another request.
const MAX_GAP_BYTES: u64 = 16 << 20;
/// Parts behind the place of reading that stay in memory: query, key and value of a block, which become one tensor, lie
/// in another order in files of Hugging Face.
const PARTS_BEHIND: usize = 2;
/// Bytes of a request outside of a pass.
const DIRECT_BYTES: u64 = 64 << 20;

/// Reads the tensors that it was planned for, best in the order of [`TensorReader::place_of`].
#[derive(Debug)]
pub(super) struct TensorReader {
    /// In the order in which they are read.
    extents: Vec<FileExtent>,
    /// The extent that is read, and how far.
    current: Option<(usize, FilePass)>,
}

/// A part of a file that is read in one pass.
#[derive(Clone, Debug)]
pub(super) struct FileExtent {
    pub(super) file: Arc<TensorFile>,
    pub(super) range: Range<u64>,
}

/// Where a tensor lies among those that are read together: earlier extents and bytes first.
pub(super) type ReadingPlace = (usize, u64);

impl TensorReader {
    /// A reader of these parts of files.
    pub(super) fn plan(wanted: Vec<FileExtent>) -> Self {
        let mut files: Vec<(Arc<TensorFile>, Vec<Range<u64>>)> = Vec::new();
        for FileExtent { file, range } in wanted {
            match files
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &file))
            {
                Some((_, ranges)) => ranges.push(range),
                None => files.push((file, vec![range])),
            }
        }

        let extents = files.into_iter().flat_map(|(file, ranges)| {
            let ranges = match file.expected() {
                // All of it: only the whole file has a digest.
                Some(_) => std::iter::once(0..file.size).collect(),
                None => merge_close_ranges(ranges),
            };

            ranges.into_iter().map(move |range| FileExtent {
                file: file.clone(),
                range,
            })
        });

        Self {
            extents: extents.collect(),
            current: None,
        }
    }

    /// A reader that reads what is asked for and nothing ahead, and proves nothing: for single tensors.
    pub(super) fn direct() -> Self {
        Self {
            extents: Vec::new(),
            current: None,
        }
    }

    /// Where the first of several parts lies.
    pub(super) fn place_of(&self, parts: &[FileExtent]) -> ReadingPlace {
        let place = |part: &FileExtent| {
            let extent = self.find_extent(&part.file, &part.range);
            (extent.unwrap_or(self.extents.len()), part.range.start)
        };

        parts.iter().map(place).min().unwrap_or_default()
    }

    fn find_extent(&self, file: &Arc<TensorFile>, range: &Range<u64>) -> Option<usize> {
        self.extents.iter().position(|extent| {
            Arc::ptr_eq(&extent.file, file)
                && extent.range.start <= range.start
                && range.end <= extent.range.end
        })
    }

    /// The first numbers of a range, each of `size` bytes: as many as lie in memory together, at least one.
    ///
    /// # Errors
    /// If the file cannot be read, or is shorter than it says.
    pub(super) fn read_some(
        &mut self,
        file: &Arc<TensorFile>,
        range: Range<u64>,
        size: u64,
    ) -> Result<Bytes> {
        if let Some(extent) = self.find_extent(file, &range) {
            let pass = self.advance_to(extent)?;
            if let Some(bytes) = pass
                .map(|pass| pass.read_some(&range, size))
                .transpose()?
                .flatten()
            {
                return Ok(bytes);
            }
        }

        let end = range.end.min(range.start + DIRECT_BYTES / size * size);
        file.read_range(range.start..end)
    }

    /// The pass over an extent, `None` if it is over. Passes before it are finished.
    fn advance_to(&mut self, extent: usize) -> Result<Option<&mut FilePass>> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => (0, FilePass::start(&self.extents[0])),
        };

        while current.0 < extent {
            current.1.finish()?;
            let next = current.0 + 1;
            current = (next, FilePass::start(&self.extents[next]));
        }

        let (index, pass) = self.current.insert(current);
        Ok((*index == extent).then_some(pass))
    }

    /// Reads what is left of files whose digest is known.
    ///
    /// # Errors
    /// If a file is not what was written: then no value that was read is to be used.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some(last) = self.extents.len().checked_sub(1) else {
            return Ok(());
        };

        self.advance_to(last)?;
        self.current.map_or(Ok(()), |(_, pass)| pass.finish())
    }
}

/// One pass over a part of a file.
#[derive(Debug)]
struct FilePass {
    file: Arc<TensorFile>,
    rest: ObjectParts,
    /// The parts read last, with the places where they begin.
    window: VecDeque<(u64, Bytes)>,
    /// Up to where the file was read.
    position: u64,
    /// Of the bytes so far, if the whole file is read.
    hash: Option<Sha256>,
}

impl FilePass {
    fn start(extent: &FileExtent) -> Self {
        let FileExtent { file, range } = extent;
        // The head is in memory already: it was read to list the tensors.
        let head = file.head_within(range);
        let position = range.start + head.len() as u64;
        let is_proven = file.expected().is_some();

        let mut pass = Self {
            file: file.clone(),
            rest: file.read_parts(position..range.end),
            window: VecDeque::new(),
            position: range.start,
            hash: is_proven.then(Sha256::new),
        };

        pass.add_part(head);
        pass
    }

    fn add_part(&mut self, part: Bytes) {
        if let Some(hash) = &mut self.hash {
            hash.update(&part);
        }

        let start = self.position;
        self.position += part.len() as u64;
        self.window.push_back((start, part));
    }

    /// Reads the next part. `false` at the end.
    fn read_next(&mut self) -> Result<bool> {
        match self.rest.next().transpose()? {
            Some(part) => self.add_part(part),
            None => return Ok(false),
        }

        Ok(true)
    }

    /// As [`TensorReader::read_some`]; `None` if that part of the file is no longer in memory.
    fn read_some(&mut self, range: &Range<u64>, size: u64) -> Result<Option<Bytes>> {
        while self.position < range.start + size && self.read_next()? {
            while self.window.len() > PARTS_BEHIND + 1 {
                self.window.pop_front();
            }
        }

        let mut parts = self.window.iter();
        let Some((start, part)) =
            parts.find(|(start, part)| (*start..start + part.len() as u64).contains(&range.start))
        else {
            return Ok(None);
        };

        let offset = (range.start - start) as usize;
        let available = (range.end - range.start).min((part.len() - offset) as u64);
        let whole_numbers = (available / size * size) as usize;
        if whole_numbers > 0 {
            return Ok(Some(part.slice(offset..offset + whole_numbers)));
        }

        // A number that lies in two parts.
        let mut number = BytesMut::from(&part[offset..]);
        if let Some((_, next)) = parts.next() {
            let missing = size as usize - number.len();
            number.extend_from_slice(&next[..missing.min(next.len())]);
        }

        match number.len() as u64 == size {
            true => Ok(Some(number.freeze())),
            false => Err(self.ends_early()),
        }
    }

    fn ends_early(&self) -> Error {
        let uri = self.file.uri();
        Error::Data(format!("{uri} ends within a number: it was cut off"))
    }

    /// Proves the file, if its digest is known.
    fn finish(mut self) -> Result<()> {
        let Some(expected) = self.file.expected().cloned() else {
            return Ok(());
        };

        while self.read_next()? {
            self.window.clear();
        }

        let found = self.hash.take().map(|hash| hex(&hash.finalize()));
        expected.expect_digest(&self.file.uri(), &found.unwrap_or_default())
    }
}

/// Ranges in their order, without gaps that are not worth a request.
fn merge_close_ranges(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();

    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(MAX_GAP_BYTES) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }

    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_together_unless_much_lies_between() {
        const MIB: u64 = 1 << 20;
        let ranges = vec![
            50 * MIB..60 * MIB,
            0..8,
            20 * MIB..30 * MIB,
            4..6,
            8 * MIB..9 * MIB,
        ];
        let merged = merge_close_ranges(ranges);
        assert_eq!(merged, [0..30 * MIB, 50 * MIB..60 * MIB]);
    }
}
