//! Reads a pickle without building anything of it, and refuses one that would take more memory or stack than weights
//! need: lengths that the file does not have, objects within objects without end, copies of copies.

use std::collections::HashMap;
use std::io::{BufRead, Read};

/// Names, shapes and numbers of a model with a hundred thousand tensors fit; values are stored elsewhere.
const MAX_BYTES: u64 = 256 << 20;
/// A tensor in a module in a checkpoint is twenty deep. Objects are dropped and walked by recursion.
const MAX_DEPTH: u32 = 200;
/// Objects built, with those that references copy.
const MAX_OBJECTS: u64 = 5_000_000;

/// What an object on the stack amounts to.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    /// It and all objects in it.
    objects: u64,
    depth: u32,
    is_mark: bool,
}

/// The bytes of one pickle, up to its end; what follows it is left unread.
///
/// # Errors
/// If it ends early, is too large, or has an opcode that no weights have.
pub(super) fn read_bounded(reader: &mut impl BufRead) -> Result<Vec<u8>, String> {
    let mut scan = PickleScan {
        reader,
        bytes: Vec::new(),
        stack: Vec::new(),
        memo: HashMap::new(),
        built: 0,
    };

    while scan.step()? {}
    Ok(scan.bytes)
}

/// A stack machine that knows extents alone.
struct PickleScan<'a, R> {
    reader: &'a mut R,
    bytes: Vec<u8>,
    stack: Vec<Extent>,
    memo: HashMap<u32, Extent>,
    /// Objects so far, the copies too.
    built: u64,
}

impl<R: BufRead> PickleScan<'_, R> {
    /// One opcode; says whether another follows.
    fn step(&mut self) -> Result<bool, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(false),
            // The protocol.
            0x80 => {
                self.take(1)?;
            }
            b'(' => self.stack.push(Extent {
                is_mark: true,
                ..Extent::default()
            }),

            // Objects without parts: numbers, constants, empty collections.
            b'K' => self.push_leaf(1)?,
            b'M' => self.push_leaf(2)?,
            b'J' => self.push_leaf(4)?,
            b'G' => self.push_leaf(8)?,
            b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | b'd' => self.push_leaf(0)?,
            0x8A => {
                let length = self.take(1)?[0];
                // candle would shift the bytes of a longer one out of its 64 bits.
                if length > 8 {
                    return Err("its pickle has a number of more than 64 bits".into());
                }

                self.push_leaf(length.into())?;
            }
            b'X' => {
                let length = self.take_u32()?;
                self.push_leaf(length.into())?;
            }
            // The names of a module and of something in it.
            b'c' => {
                self.take_line()?;
                self.take_line()?;
                self.push_leaf(0)?;
            }

            // Objects of the last one, two or three: tuples, calls, references to storages.
            0x85 | b'Q' => self.combine(1)?,
            0x86 | b'R' | b'b' | 0x81 => self.combine(2)?,
            0x87 => self.combine(3)?,
            b't' => {
                let parts = self.count_to_mark()?;
                self.combine(parts)?;
                self.drop_mark_below()?;
            }

            // Entries of the collection below them.
            b'a' => self.merge(1)?,
            b's' => self.merge(2)?,
            b'e' | b'u' => {
                let parts = self.count_to_mark()?;
                self.merge_to_mark(parts)?;
            }

            b'q' => {
                let key = self.take(1)?[0];
                self.remember(key.into())?;
            }
            b'r' => {
                let key = self.take_u32()?;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = self.take_u32()?;
                self.recall(key)?;
            }
            opcode => {
                return Err(format!(
                    "its pickle has the opcode {opcode}, which no weights have"
                ));
            }
        }

        Ok(true)
    }

    /// The next bytes. Memory is taken for those that are there, whatever length was declared.
    fn take(&mut self, length: u64) -> Result<&[u8], String> {
        let start = self.bytes.len();
        if start as u64 + length > MAX_BYTES {
            return Err(format!("its pickle is larger than {} MiB", MAX_BYTES >> 20));
        }

        let read = self
            .reader
            .by_ref()
            .take(length)
            .read_to_end(&mut self.bytes);
        match read {
            Ok(read) if read as u64 == length => Ok(&self.bytes[start..]),
            Ok(_) => Err("its pickle ends early".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn take_u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(bytes
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn take_line(&mut self) -> Result<(), String> {
        const MAX_LINE: u64 = 4096;
        let mut line = self.reader.by_ref().take(MAX_LINE);
        line.read_until(b'\n', &mut self.bytes)
            .map_err(|error| error.to_string())?;

        match self.bytes.last() {
            Some(b'\n') => Ok(()),
            _ => Err("its pickle ends within a name".into()),
        }
    }

    fn push_leaf(&mut self, length: u64) -> Result<(), String> {
        self.take(length)?;
        self.push(Extent {
            objects: 1,
            depth: 1,
            is_mark: false,
        })
    }

    fn push(&mut self, extent: Extent) -> Result<(), String> {
        if extent.depth > MAX_DEPTH {
            return Err(format!(
                "its pickle nests objects more than {MAX_DEPTH} deep"
            ));
        }

        self.stack.push(extent);
        self.count_built(1)
    }

    fn count_built(&mut self, objects: u64) -> Result<(), String> {
        self.built = self.built.saturating_add(objects);
        match self.built > MAX_OBJECTS {
            true => Err(format!("its pickle makes more than {MAX_OBJECTS} objects")),
            false => Ok(()),
        }
    }

    fn pop(&mut self) -> Result<Extent, String> {
        self.stack
            .pop()
            .ok_or_else(|| "its pickle takes objects that it did not make".into())
    }

    /// Replaces the last objects by one that holds them.
    fn combine(&mut self, parts: usize) -> Result<(), String> {
        let mut whole = Extent {
            objects: 1,
            depth: 1,
            is_mark: false,
        };

        for _ in 0..parts {
            whole = whole.with_part(self.pop()?);
        }

        self.push(whole)
    }

    /// Puts the last objects into the one below them.
    fn merge(&mut self, parts: usize) -> Result<(), String> {
        let mut merged = Extent::default();
        for _ in 0..parts {
            merged = merged.with_part(self.pop()?);
        }

        let target = self.pop()?;
        let whole = Extent {
            objects: target.objects.saturating_add(merged.objects),
            depth: target.depth.max(merged.depth),
            is_mark: target.is_mark,
        };

        self.push(whole)
    }

    /// The same with the mark that is between.
    fn merge_to_mark(&mut self, parts: usize) -> Result<(), String> {
        let mark = self.stack.len() - parts - 1;
        self.stack.remove(mark);
        self.merge(parts)
    }

    /// Objects above the last mark.
    fn count_to_mark(&self) -> Result<usize, String> {
        let above = self.stack.iter().rev().position(|extent| extent.is_mark);
        above.ok_or_else(|| "its pickle has no mark where one is needed".into())
    }

    /// Removes the mark below the last object.
    fn drop_mark_below(&mut self) -> Result<(), String> {
        let last = self.pop()?;
        self.pop()?;
        self.stack.push(last);
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let last = self.pop()?;
        self.stack.push(last);
        self.memo.insert(key, last);
        // A copy is kept.
        self.count_built(last.objects)
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let extent = self.memo.get(&key).copied();
        let extent = extent
            .ok_or_else(|| format!("its pickle recalls object {key}, which it did not keep"))?;
        self.count_built(extent.objects)?;
        self.push(extent)
    }
}

impl Extent {
    /// With another object in it.
    fn with_part(self, part: Self) -> Self {
        Self {
            objects: self.objects.saturating_add(part.objects),
            depth: self.depth.max(part.depth.saturating_add(1)),
            is_mark: self.is_mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(pickle: &[u8]) -> String {
        read_bounded(&mut &pickle[..]).unwrap_err()
    }

    #[test]
    fn a_length_that_the_file_does_not_have_takes_no_memory() {
        assert_eq!(error_of(b"X\x00\x00\x00\x0Fabc."), "its pickle ends early");
        assert_eq!(
            error_of(b"X\xFF\xFF\xFF\xFFabc."),
            "its pickle is larger than 256 MiB"
        );
    }

    #[test]
    fn objects_within_objects_and_copies_of_copies_have_an_end() {
        let nested = [&[b')'][..], &[0x85].repeat(300), b"."].concat();
        assert!(error_of(&nested).contains("200 deep"));

        // Each tuple holds the one before twice: 2^60 objects.
        let mut doubled = b"K\x01q\x00".to_vec();
        for _ in 0..60 {
            doubled.extend(b"h\x00h\x00\x86q\x00");
        }

        doubled.push(b'.');
        assert!(error_of(&doubled).contains("objects"));
    }

    #[test]
    fn a_pickle_is_copied_to_its_end_and_no_further() {
        // {"a": (1, 2)}
        let pickle = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01K\x02\x86q\x02s.";
        let stream = [&pickle[..], b"rest"].concat();
        let mut reader = &stream[..];
        assert_eq!(read_bounded(&mut reader).unwrap(), pickle);
        assert_eq!(reader, b"rest");
    }

    #[test]
    fn what_no_weights_have_is_refused() {
        for pickle in [&b""[..], b"t.", b"e.", b"s.", b"h\x07.", b"\x95.", b"cabc"] {
            assert!(!error_of(pickle).is_empty(), "{pickle:?}");
        }

        let number = [&b"\x8A\x09"[..], &[1; 9], b"."].concat();
        assert!(error_of(&number).contains("64 bits"));
    }
}
