//! An object as a file to read and seek in. Reads only what is asked for, and a little ahead.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cnclip_compute::sync::lock_ignoring_poison;

use super::Store;
use crate::error::Error;

/// Bytes of a request, at least: larger than most headers and directories of archives, which are read in small
/// pieces.
const READ_AHEAD_BYTES: u64 = 64 << 10;

/// An object, read where the position is. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ObjectReader {
    store: Store,
    name: String,
    size: u64,
    position: u64,
    /// The bytes from `position` on that were read already.
    read_ahead: Bytes,
    /// The failure behind an `io::Error`, of this reader or of a clone.
    failure: Arc<Mutex<Option<Error>>>,
}

impl ObjectReader {
    /// An object of that size, from its beginning.
    pub fn new(store: Store, name: &str, size: u64) -> Self {
        Self {
            store,
            name: name.to_owned(),
            size,
            position: 0,
            read_ahead: Bytes::new(),
            failure: Arc::default(),
        }
    }

    /// The last failure of the store, of this reader or of a clone. A parser may have replaced the `io::Error` by an
    /// error of its own, which says that the object is damaged.
    pub fn take_failure(&self) -> Option<Error> {
        lock_ignoring_poison(&self.failure).take()
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_ahead.is_empty() && self.position < self.size {
            let end = self
                .size
                .min(self.position + READ_AHEAD_BYTES.max(buffer.len() as u64));

            let read = self.store.get_range(&self.name, self.position..end);
            self.read_ahead = read.map_err(|error| {
                *lock_ignoring_poison(&self.failure) = Some(error);
                io::Error::other("the object store gave no more")
            })?;
        }

        // Fewer bytes than asked for are no error of `Read`: the caller comes again, and the next request follows.
        let count = buffer.len().min(self.read_ahead.len());
        buffer[..count].copy_from_slice(&self.read_ahead.split_to(count));
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };

        let position = position.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        let skipped = position
            .checked_sub(self.position)
            .map(|skipped| skipped as usize);

        // Archives are read nearly in sequence, by many short seeks forwards: those cost no request.
        self.read_ahead = match skipped.filter(|&skipped| skipped <= self.read_ahead.len()) {
            Some(skipped) => self.read_ahead.slice(skipped..),
            None => Bytes::new(),
        };

        self.position = position;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_wherever_one_seeks() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        let store = Store::in_memory();
        store.put("x", bytes.clone().into()).unwrap();
        let mut reader = ObjectReader::new(store, "x", 200_000);
        let seeks = [
            (SeekFrom::Start(150_000), 150_000),
            (SeekFrom::Current(-10), 150_090),
            (SeekFrom::Current(3), 150_193),
            (SeekFrom::End(-100), 199_900),
        ];

        for (to, place) in seeks {
            let mut found = [0; 100];
            assert_eq!(reader.seek(to).unwrap(), place as u64);
            reader.read_exact(&mut found).unwrap();
            assert_eq!(found, bytes[place..place + 100]);
        }

        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end");
        assert!(reader.seek(SeekFrom::Current(-200_001)).is_err());
    }

    #[test]
    fn the_failure_of_the_store_is_there_after_that_of_the_parser() {
        let reader = ObjectReader::new(Store::in_memory(), "absent", 10);
        assert!(reader.take_failure().is_none());
        reader.clone().read_exact(&mut [0; 4]).unwrap_err();

        let failure = reader.take_failure().unwrap();
        assert!(failure.to_string().contains("memory:/absent"), "{failure}");
        assert!(reader.take_failure().is_none());
    }
}
