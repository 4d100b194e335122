//! Reads and writes objects under one URI, wherever it points: `s3://`, `gs://`, `az://`,
//! `file://`, a plain path, or `https://` (read-only). Never interprets what it moves.

mod download;
mod reader;
mod runtime;
mod scheme;
mod upload;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::error::{Error, Result, StoreError, StoreErrorKind};
pub use reader::ObjectReader;
pub use runtime::block_on;
pub use upload::ObjectWriter;

/// Larger objects are transferred in parts of this size, so that no single request can take long: a timeout then
/// means that the store is slow, not that the object is large.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one object in flight. With their size it bounds the memory of a transfer.
const PARTS_IN_FLIGHT: usize = 4;
/// Small objects in flight.
const OBJECTS_IN_FLIGHT: usize = 32;

/// One object below a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The name relative to the store it was listed in, with `/` between folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// Everything below one URI. Cloning is cheap; all calls block the calling thread, and may be
/// made from any thread.
///
/// ```
/// use cnclip_data::store::Store;
///
/// # fn main() -> cnclip_data::error::Result<()> {
/// let store = Store::in_memory();
/// store.put("runs/a/weights", "0123456789".into())?;
///
/// let run = store.join_prefix("runs/a");
/// assert_eq!(run.get("weights")?, "0123456789");
/// assert_eq!(run.get_range("weights", 2..5)?, "234");
/// assert_eq!(run.object_size("absent")?, None);
/// assert!(!run.put_if_absent("weights", "other".into())?, "it is there already");
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
/// An object is visible whole or not at all. Requests that fail for a passing reason are repeated
/// for half a minute.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    uri: String,
    read_only: bool,
}

impl Store {
    /// The store at a URI or a plain path. Credentials, region and endpoint come from the
    /// environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`.
    ///
    /// # Errors
    /// If the URI has no scheme we know, or what the environment says cannot work. Whether the
    /// place exists is only seen at the first call.
    pub fn open(uri: &str) -> Result<Self> {
        scheme::open_uri(uri, std::env::vars())
    }

    /// An empty store that lives as long as its clones.
    pub fn in_memory() -> Self {
        let objects = Arc::new(object_store::memory::InMemory::new());
        Self {
            objects,
            prefix: Path::default(),
            uri: "memory:".into(),
            read_only: false,
        }
    }

    /// Where this store is.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI of an object.
    pub fn object_uri(&self, name: &str) -> String {
        match name {
            "" => self.uri.clone(),
            _ => format!("{}/{name}", self.uri.trim_end_matches('/')),
        }
    }

    /// The store of everything below `folder`.
    pub fn join_prefix(&self, folder: &str) -> Self {
        Self {
            prefix: self.object_path(folder),
            uri: self.object_uri(folder),
            ..self.clone()
        }
    }

    /// The same place under another URI, for messages.
    pub fn with_display_uri(self, uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            ..self
        }
    }

    /// All bytes of an object.
    ///
    /// # Errors
    /// If it is not there, or the store does not answer.
    pub fn get(&self, name: &str) -> Result<Bytes> {
        let objects = self.objects.clone();
        let path = self.object_path(name);
        self.run_request("read", name, async move {
            // One request for small objects: the answer has the size and the bytes. Of a large one the body is
            // dropped unread, and parts are requested instead.
            let first = objects.get_opts(&path, GetOptions::default()).await?;
            match first.meta.size {
                size if size <= PART_BYTES => first.bytes().await,
                size => fetch_parts(&objects, &path, 0..size).await,
            }
        })
    }

    /// All bytes of an object, `None` if there is none of that name.
    ///
    /// # Errors
    /// If the bucket is missing, or the store does not answer.
    pub fn get_if_exists(&self, name: &str) -> Result<Option<Bytes>> {
        match self.get(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All bytes of each of several small objects, many of them requested concurrently.
    ///
    /// # Errors
    /// For each, as [`Store::get`].
    pub fn get_many(&self, names: &[String]) -> Vec<Result<Bytes>> {
        let objects = self.objects.clone();
        let paths: Vec<_> = names.iter().map(|name| self.object_path(name)).collect();
        let answers = block_on(async move {
            let get = |path| {
                let objects = objects.clone();
                async move { objects.get(&path).await?.bytes().await }
            };

            // `buffered` keeps the order of the names, by which the caller finds its answers.
            stream::iter(paths)
                .map(get)
                .buffered(OBJECTS_IN_FLIGHT)
                .collect::<Vec<_>>()
                .await
        });

        match answers {
            Ok(answers) => (names.iter().zip(answers))
                .map(|(name, answer)| {
                    answer.map_err(|source| {
                        StoreError::new("read", self.object_uri(name), source).into()
                    })
                })
                .collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// The bytes of an object from one place to another.
    ///
    /// # Errors
    /// As [`Store::get`]; if the object ends before that place.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let objects = self.objects.clone();
        let path = self.object_path(name);
        let wanted = range.clone();
        let bytes = self.run_request("read", name, async move {
            fetch_parts(&objects, &path, range).await
        })?;

        // A range that goes beyond the end is answered with fewer bytes and no error.
        match bytes.len() as u64 == wanted.end - wanted.start {
            true => Ok(bytes),
            false => Err(Error::Data(format!(
                "{} ends before byte {}: it was cut off. Write it again.",
                self.object_uri(name),
                wanted.end
            ))),
        }
    }

    /// The size of an object, `None` if there is none of that name.
    ///
    /// # Errors
    /// If the bucket is missing, or the store does not answer.
    pub fn object_size(&self, name: &str) -> Result<Option<u64>> {
        let objects = self.objects.clone();
        let path = self.object_path(name);
        match self.run_request("read", name, async move { objects.head(&path).await }) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object below this store, in name order.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub fn list_objects(&self) -> Result<Vec<ObjectEntry>> {
        let objects = self.objects.clone();
        let prefix = self.prefix.clone();
        self.run_request("list", "", async move {
            let found: Vec<_> = objects.list(Some(&prefix)).try_collect().await?;
            let mut entries: Vec<ObjectEntry> = (found.iter())
                .filter_map(|meta| {
                    let parts: Vec<_> = meta.location.prefix_match(&prefix)?.collect();
                    let name = parts
                        .iter()
                        .map(AsRef::as_ref)
                        .collect::<Vec<&str>>()
                        .join("/");

                    Some(ObjectEntry {
                        name,
                        bytes: meta.size,
                    })
                })
                .collect();

            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    /// Writes an object, over one that is there.
    ///
    /// # Errors
    /// If the store is read-only, refuses, or does not answer.
    pub fn put(&self, name: &str, mut bytes: Bytes) -> Result<()> {
        self.ensure_writable(name)?;
        if bytes.len() as u64 > PART_BYTES {
            let part = |bytes: &mut Bytes| bytes.split_to(bytes.len().min(PART_BYTES as usize));
            return self.write_with(name, |to| {
                while !bytes.is_empty() {
                    to.send_part(part(&mut bytes))?;
                }
                Ok(())
            });
        }

        let objects = self.objects.clone();
        let path = self.object_path(name);
        self.run_request("write", name, async move {
            objects
                .put(&path, PutPayload::from_bytes(bytes))
                .await
                .map(drop)
        })
    }

    /// Writes an object only if there is none of that name; says whether it did.
    ///
    /// # Errors
    /// As [`Store::put`].
    ///
    /// # Guarantees
    /// Of all callers with one name, at most one gets `true`.
    pub fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool> {
        self.ensure_writable(name)?;
        let objects = self.objects.clone();
        let path = self.object_path(name);
        self.run_request("write", name, async move {
            // S3 answers 412 (precondition) where others answer 409 or that the object exists.
            let options = PutOptions::from(PutMode::Create);
            match objects
                .put_opts(&path, PutPayload::from_bytes(bytes), options)
                .await
            {
                Ok(_) => Ok(true),
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete(&self, name: &str) -> Result<()> {
        self.ensure_writable(name)?;
        let objects = self.objects.clone();
        let path = self.object_path(name);
        self.run_request("delete", name, async move {
            match objects.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        })
    }

    fn object_path(&self, name: &str) -> Path {
        // Empty parts are dropped, so that a prefix may end in `/` or not.
        let parts = name.split('/').filter(|part| !part.is_empty());
        // A name is taken as it is: what a store lists can be read back by that name.
        let part = |part| PathPart::parse(part).unwrap_or_else(|_| PathPart::from(part));
        parts.fold(self.prefix.clone(), |path, name| path.join(part(name)))
    }

    fn ensure_writable(&self, name: &str) -> Result<()> {
        match self.read_only {
            true => Err(StoreError::read_only(self.object_uri(name)).into()),
            false => Ok(()),
        }
    }

    /// Runs a request on the store's own threads, so that any thread may wait for it, one that
    /// belongs to an async runtime too.
    fn run_request<T: Send + 'static>(
        &self,
        verb: &'static str,
        name: &str,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let answer = block_on(request).map_err(|_| {
            Error::Bug(format!(
                "the request to {verb} {} never answered",
                self.object_uri(name)
            ))
        })?;

        answer.map_err(|source| StoreError::new(verb, self.object_uri(name), source).into())
    }
}

async fn fetch_parts(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    Range { start, end }: Range<u64>,
) -> object_store::Result<Bytes> {
    let starts = (start..end).step_by(PART_BYTES as usize);
    let ranges = starts.map(|start| start..end.min(start + PART_BYTES));
    let mut parts = stream::iter(ranges)
        .map(|range| async move { objects.get_range(path, range).await })
        .buffered(PARTS_IN_FLIGHT);

    let mut whole = BytesMut::with_capacity((end - start) as usize);
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }

    Ok(whole.freeze())
}

#[cfg(test)]
mod tests;
