//! An object that is written piece by piece: of whatever size, it takes the memory of a few parts. Readers see
//! it when it is whole, and not before.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};

use super::multipart::RecordedUpload;
use super::{PART_BYTES, PARTS_IN_FLIGHT, Request, Store};
use crate::error::{Error, Result, StoreError, StoreVerb};

const PART_LEN: usize = PART_BYTES as usize;

/// Where the bytes of one object go.
pub struct ObjectWriter<'a> {
    store: &'a Store,
    name: &'a str,
    /// What was written since the last part.
    part: Vec<u8>,
    /// Begun with the first whole part: a smaller object is one request, not three.
    multipart: Option<WriteMultipart>,
    /// The failure behind an `io::Error`, which the caller of `write` may have replaced by its own.
    error: Option<Error>,
}

impl Store {
    /// Writes an object piece by piece, over one that is there.
    ///
    /// # Errors
    /// As [`Store::put`], and those of `write`.
    ///
    /// # Guarantees
    /// After an error there is what there was before.
    pub fn write_with<T, E: From<Error>>(
        &self,
        name: &str,
        write: impl FnOnce(&mut ObjectWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.ensure_writable(name)?;
        let mut upload = ObjectWriter {
            store: self,
            name,
            part: vec![],
            multipart: None,
            error: None,
        };

        let written = write(&mut upload);
        match (upload.error.take(), written) {
            (None, Ok(written)) => Ok(upload.finish_upload().map(|()| written)?),
            (None, Err(error)) => {
                upload.abort_upload();
                Err(error)
            }
            (Some(fault), _) => {
                upload.abort_upload();
                Err(fault.into())
            }
        }
    }
}

impl ObjectWriter<'_> {
    /// Sends a part, which the last one alone may fall short of.
    fn send_part(&mut self, part: Bytes) -> Result<()> {
        let request = self.store.request(StoreVerb::Write, self.name);
        let sent = self.multipart.take();

        let send = async move {
            let sent = match sent {
                Some(sent) => sent,
                None => begin_upload(&request).await?,
            };

            let sent = put_part(sent, part).await;
            sent.map_err(|source| request.to_error(source))
        };

        self.multipart = Some(self.store.wait_for(send)?);
        Ok(())
    }

    fn finish_upload(mut self) -> Result<()> {
        let part = Bytes::from(mem::take(&mut self.part));
        let Some(mut sent) = self.multipart.take() else {
            return self.store.put(self.name, part);
        };

        // The last part may have any size; the object appears with the request that completes the upload.
        sent.put(part);
        let request = self.store.request(StoreVerb::Write, self.name);
        self.store.wait_for(async move {
            let done = sent.finish().await;
            done.map(drop).map_err(|source| request.to_error(source))
        })
    }

    fn abort_upload(mut self) {
        if let Some(sent) = self.multipart.take() {
            let request = self.store.request(StoreVerb::Write, self.name);
            let abort = async move {
                let done = sent.abort().await;
                done.map_err(|source| request.to_error(source))
            };

            // The first failure is the one to report.
            self.store.wait_for(abort).ok();
        }
    }
}

/// Writes a large object that is in memory.
pub(super) async fn put_in_parts(request: &Request, bytes: Bytes) -> Result<(), StoreError> {
    if request.multipart.is_some() {
        // Each of its requests is repeated by itself.
        let sent = begin_upload(request).await?;
        let done = put_parts(sent, bytes).await;
        return done.map_err(|source| request.to_error(source));
    }

    let upload = |objects: Arc<dyn ObjectStore>, path: Path| {
        let bytes = bytes.clone();
        async move { put_parts(begin_file(objects, path).await?, bytes).await }
    };

    request.run(upload).await
}

async fn put_parts(mut sent: WriteMultipart, mut rest: Bytes) -> object_store::Result<()> {
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(PART_LEN));
        sent = put_part(sent, part).await?;
    }

    sent.finish().await.map(drop)
}

async fn begin_upload(request: &Request) -> Result<WriteMultipart, StoreError> {
    let Some(client) = &request.multipart else {
        return request.run(begin_file).await;
    };

    let upload = RecordedUpload::begin(request.clone(), client.clone()).await?;
    Ok(WriteMultipart::new_with_chunk_size(
        Box::new(upload),
        PART_LEN,
    ))
}

/// Of a volume, where what a killed process leaves is removed with its folder.
async fn begin_file(
    objects: Arc<dyn ObjectStore>,
    path: Path,
) -> object_store::Result<WriteMultipart> {
    let upload = objects.put_multipart(&path).await?;
    Ok(WriteMultipart::new_with_chunk_size(upload, PART_LEN))
}

/// Starts the request for a part and returns: the caller makes the next part while this one is sent.
async fn put_part(mut sent: WriteMultipart, part: Bytes) -> object_store::Result<WriteMultipart> {
    if let Err(error) = sent.wait_for_capacity(PARTS_IN_FLIGHT).await {
        // The first failure is the one to report, so one of the abort is ignored. Parts that stay behind would be
        // paid for until a lifecycle rule of the bucket removes them.
        sent.abort().await.ok();
        return Err(error);
    }

    sent.put(part);
    Ok(sent)
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // At most to the end of a part: all parts but the last have one size, which some stores (R2) require.
        let taken = bytes.len().min(PART_LEN - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == PART_LEN {
            let part = mem::take(&mut self.part).into();
            self.send_part(part).map_err(|error| {
                self.error = Some(error);
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
            Store::in_memory(),
            Store::open(folder.path().to_str().unwrap()).unwrap(),
        ] {
            for size in [0, 1, PART_LEN - 1, PART_LEN, PART_LEN + 1, 2 * PART_LEN + 5] {
                let bytes: Vec<u8> = (0..size).map(|place| (place / 1009) as u8).collect();
                let written = store.write_with("x", |to| -> Result<usize> {
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
        let stopped = store.write_with::<(), Error>("x", |to| {
            to.write_all(&vec![1; PART_LEN + 1]).unwrap();
            Err(Error::Bug("enough".into()))
        });

        assert!(stopped.unwrap_err().to_string().contains("enough"));
        assert_eq!(store.get("x").unwrap(), "before");
        assert_eq!(store.list_objects().unwrap().len(), 1, "no part is left");
    }

    #[test]
    fn a_failed_upload_reports_the_error_of_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        // Where a folder has to be there is a file.
        store.put("x", "".into()).unwrap();
        let error = store.write_with("x/y", |to| {
            to.write_all(&vec![1; 3 * PART_LEN])
                .map_err(|_| Error::Bug("of the writer".into()))
        });

        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("cannot write") && error.contains("x/y"),
            "{error}"
        );
    }
}
