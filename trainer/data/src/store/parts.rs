//! Reads an object once from one place to another: a few parts are on their way while one is used.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;

use bytes::Bytes;

use super::{PART_BYTES, Request, Store, fetch, runtime};
use crate::error::{Error, Result, StoreError, StoreVerb};

/// Parts on their way: a single connection gives a fraction of what a store and its network can.
const PARTS_AHEAD: usize = 8;

/// The bytes of an object, part after part. Ends after the first error.
#[derive(Debug)]
pub struct ObjectParts {
    store: Store,
    name: String,
    /// What is not requested yet.
    rest: Range<u64>,
    requested: VecDeque<RequestedPart>,
}

#[derive(Debug)]
struct RequestedPart {
    range: Range<u64>,
    answer: mpsc::Receiver<Result<Bytes, StoreError>>,
}

impl Store {
    /// Reads the bytes of an object from one place to another, in parts of at most 16 MiB.
    ///
    /// ```
    /// use cnclip_data::store::Store;
    ///
    /// # fn main() -> cnclip_data::error::Result<()> {
    /// let store = Store::in_memory();
    /// store.put("weights", "0123456789".into())?;
    /// let parts: Vec<_> = store.read_parts("weights", 2..5).collect::<Result<_, _>>()?;
    /// assert_eq!(parts, ["234"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Of each part, as [`Store::get_range`].
    ///
    /// # Guarantees
    /// Each byte is requested once, unless a request has to be repeated; at most eight parts are in memory besides
    /// those that the caller keeps.
    pub fn read_parts(&self, name: &str, range: Range<u64>) -> ObjectParts {
        ObjectParts {
            store: self.clone(),
            name: name.to_owned(),
            rest: range,
            requested: VecDeque::new(),
        }
    }
}

impl ObjectParts {
    fn request_ahead(&mut self) -> Result<()> {
        while self.requested.len() < PARTS_AHEAD && !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start + PART_BYTES);
            let range = self.rest.start..end;
            self.rest.start = end;

            let request = self.store.request(StoreVerb::Read, &self.name);
            let answer = start_request(request, range.clone())?;
            self.requested.push_back(RequestedPart { range, answer });
        }

        Ok(())
    }

    fn receive_part(&self, part: RequestedPart) -> Result<Bytes> {
        let found = part.answer.recv();
        let found = found.map_err(|_| Error::Bug("a request never answered".into()))?;
        self.store
            .expect_whole_range(&self.name, &part.range, found.map_err(Error::from))
    }

    fn end_early(&mut self) {
        self.rest.start = self.rest.end;
        self.requested.clear();
    }
}

fn start_request(
    request: Request,
    range: Range<u64>,
) -> Result<mpsc::Receiver<Result<Bytes, StoreError>>> {
    // Room for the answer, so that a task of the runtime never waits for the reader.
    let (sender, answer) = mpsc::sync_channel(1);
    runtime::spawn(async move {
        // The reader may have ended.
        let _ = sender.send(fetch::byte_range(&request, range).await);
    })?;

    Ok(answer)
}

impl Iterator for ObjectParts {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let requested = self.request_ahead();
        let part = self.requested.pop_front();
        let found = requested.and_then(|()| part.map(|part| self.receive_part(part)).transpose());

        if found.is_err() {
            self.end_early();
        }

        found.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_object_in_its_order_whatever_its_size() {
        let store = Store::in_memory();
        for size in [0, 1, PART_BYTES, PART_BYTES * (PARTS_AHEAD as u64 + 2) + 5] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 1009) as u8).collect();
            store.put("x", bytes.clone().into()).unwrap();
            for start in [0, size / 3] {
                let parts = store.read_parts("x", start..size);
                let parts: Vec<_> = parts.collect::<Result<_>>().unwrap();
                assert!(parts.concat() == bytes[start as usize..], "{size} bytes");
            }
        }
    }

    #[test]
    fn an_object_that_is_cut_off_or_absent_is_an_error_and_then_the_end() {
        let store = Store::in_memory();
        store.put("x", "short".into()).unwrap();
        for (name, expected) in [("x", "x ends before byte 9"), ("y", "memory:/y")] {
            let mut parts = store.read_parts(name, 0..9);
            let error = parts.next().unwrap().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(parts.next().is_none());
        }
    }
}
