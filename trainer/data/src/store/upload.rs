//! An object that is written piece by piece: of whatever size, it takes the memory of a few parts. Never
//! shows it before it is whole.

use std::io::{self, Write};
use std::mem;

use bytes::Bytes;
use object_store::{ObjectStoreExt, WriteMultipart};

use super::{PART_BYTES, PARTS_IN_FLIGHT, Store};
use crate::error::{Error, Result};

const PART: usize = PART_BYTES as usize;

/// Where the bytes of one object go.
pub struct Upload<'a> {
    store: &'a Store,
    name: &'a str,
    /// What was written since the last part.
    part: Vec<u8>,
    /// Begun with the first whole part: smaller objects are one request.
    sent: Option<WriteMultipart>,
    fault: Option<Error>,
}

impl Store {
    /// Writes an object piece by piece, over one that is there.
    ///
    /// # Errors
    /// As [`Store::put`], and those of `write`.
    ///
    /// # Guarantees
    /// After an error there is what there was before.
    pub fn write<T, E: From<Error>>(
        &self,
        name: &str,
        write: impl FnOnce(&mut Upload<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.refuse_if_read_only(name)?;
        let mut upload = Upload {
            store: self,
            name,
            part: vec![],
            sent: None,
            fault: None,
        };

        let written = write(&mut upload);
        match (upload.fault.take(), written) {
            (None, Ok(written)) => Ok(upload.finish().map(|()| written)?),
            (None, Err(error)) => {
                upload.give_up();
                Err(error)
            }
            (Some(fault), _) => {
                upload.give_up();
                Err(fault.into())
            }
        }
    }
}

impl Upload<'_> {
    /// Sends a part, which the last one alone may fall short of.
    pub(super) fn send(&mut self, part: Bytes) -> Result<()> {
        let objects = self.store.objects.clone();
        let path = self.store.path(self.name);
        let sent = self.sent.take();
        let send = async move {
            let mut sent = match sent {
                Some(sent) => sent,
                None => {
                    WriteMultipart::new_with_chunk_size(objects.put_multipart(&path).await?, PART)
                }
            };

            if let Err(error) = sent.wait_for_capacity(PARTS_IN_FLIGHT).await {
                // What went wrong first is told.
                sent.abort().await.ok();
                return Err(error);
            }

            sent.put(part);
            Ok(sent)
        };

        self.sent = Some(self.store.call("write", self.name, send)?);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let part = Bytes::from(mem::take(&mut self.part));
        let Some(mut sent) = self.sent.take() else {
            return self.store.put(self.name, part);
        };

        sent.put(part);
        self.store.call(
            "write",
            self.name,
            async move { sent.finish().await.map(drop) },
        )
    }

    fn give_up(mut self) {
        if let Some(sent) = self.sent.take() {
            self.store
                .call("write", self.name, async move { sent.abort().await })
                .ok();
        }
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == PART {
            let part = mem::take(&mut self.part).into();
            self.send(part).map_err(|error| {
                self.fault = Some(error);
                io::Error::other("the object store takes no more")
            })?;
        }

        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_any_size_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for store in [
            Store::memory(),
            Store::open(folder.path().to_str().unwrap()).unwrap(),
        ] {
            for size in [0, 1, PART - 1, PART, PART + 1, 2 * PART + 5] {
                let bytes: Vec<u8> = (0..size).map(|place| (place / 1009) as u8).collect();
                let written = store.write("x", |to| -> Result<usize> {
                    let pieces = bytes.chunks(3 << 20);
                    pieces.for_each(|piece| to.write_all(piece).unwrap());
                    Ok(bytes.len())
                });

                assert_eq!(written.unwrap(), size);
                assert!(store.get("x").unwrap() == bytes, "{size} bytes");
            }
        }
    }

    #[test]
    fn what_was_there_stays_if_the_writing_ends_badly() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        store.put("x", "before".into()).unwrap();
        let stopped = store.write::<(), Error>("x", |to| {
            to.write_all(&vec![1; PART + 1]).unwrap();
            Err(Error::Bug("enough".into()))
        });

        assert!(stopped.unwrap_err().to_string().contains("enough"));
        assert_eq!(store.get("x").unwrap(), "before");
        assert_eq!(store.list().unwrap().len(), 1, "no part is left");
    }

    #[test]
    fn the_stores_own_fault_is_told_not_that_of_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        // Where a folder has to be there is a file.
        store.put("x", "".into()).unwrap();
        let error = store.write("x/y", |to| {
            to.write_all(&vec![1; 3 * PART])
                .map_err(|_| Error::Bug("of the writer".into()))
        });

        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("cannot write") && error.contains("x/y"),
            "{error}"
        );
    }
}
