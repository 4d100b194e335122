//! Reads and writes objects under one URI, wherever it points: `s3://`, `gs://`, `az://`,
//! `file://`, a plain path, or `https://` (read-only). Never interprets what it moves.

mod cancellation;
mod client;
mod download;
mod fetch;
mod multipart;
mod parts;
mod reader;
mod request;
mod retry;
mod runtime;
mod upload;
mod uri;
mod write;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{Error, Result, StoreError, StoreErrorKind, StoreVerb};
pub use cancellation::Cancellation;
use multipart::MultipartClient;
pub use parts::ObjectParts;
pub use reader::ObjectReader;
use request::Request;
use retry::RequestRetry;
pub use runtime::block_on;
pub use upload::ObjectWriter;
pub use uri::StoreLocation;

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
/// An object is visible whole or not at all. A request that fails for a passing reason is repeated: for half a
/// minute, and where requests of its kind had worked before, for as long as an outage may last (40 minutes, or
/// `CNCLIP_STORE_OUTAGE_SECONDS`).
#[derive(Clone, Debug)]
pub struct Store {
    /// Gives up on a request when no byte arrives for a while.
    reads: Arc<dyn ObjectStore>,
    /// Gives up on a request that takes long as a whole: nothing is received while a part is sent.
    writes: Arc<dyn ObjectStore>,
    /// The second of the two, where uploads in parts have ids and outlive the process that began them.
    multipart: Option<MultipartClient>,
    retry: Arc<RequestRetry>,
    prefix: Path,
    uri: String,
    read_only: bool,
    cancellation: Cancellation,
    /// The same as the two clients, where the objects are files of this machine.
    files: Option<Arc<LocalFileSystem>>,
}

impl Store {
    /// The store at a URI or a plain path. Credentials, region and endpoint come from the
    /// environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`.
    ///
    /// The keys of objects are taken to the letter: `s3://bucket/a#1%20b` is the prefix `a#1%20b`. Of `file://` and
    /// `https://`, the path is percent-encoded.
    ///
    /// # Errors
    /// If the URI has no scheme we know or carries credentials, or what the environment says cannot work. Whether
    /// the place exists is only seen at the first call.
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(uri, std::env::vars())
    }

    /// As [`Store::open`], with variables in place of those of the environment.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        uri: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        client::open_uri(uri, variables.into_iter())
    }

    /// The store of the folder that the object at a URI or path is in, and its name there.
    ///
    /// ```
    /// use cnclip_data::store::Store;
    ///
    /// # fn main() -> cnclip_data::error::Result<()> {
    /// let (folder, name) = Store::open_parent("/models/clip.pt")?;
    /// assert_eq!((folder.uri(), name), ("/models", "clip.pt"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_parent(uri: &str) -> Result<(Self, &str)> {
        let (folder, name) = match uri.rsplit_once('/') {
            // The root of the file system, which has no name.
            Some(("", name)) => ("/", name),
            Some((folder, name)) => (folder, name),
            None => (".", uri),
        };

        Ok((Self::open(folder)?, name))
    }

    /// An empty store that lives as long as its clones.
    pub fn in_memory() -> Self {
        let objects = Arc::new(object_store::memory::InMemory::new());
        Self {
            multipart: Some(MultipartClient::new(objects.clone())),
            ..Self::of_objects(objects, Path::default(), "memory:")
        }
    }

    /// A store without a network between.
    fn of_objects(objects: Arc<dyn ObjectStore>, prefix: Path, uri: &str) -> Self {
        Self {
            reads: objects.clone(),
            writes: objects,
            multipart: None,
            retry: Arc::new(RequestRetry::new(retry::DEFAULT_OUTAGE)),
            prefix,
            uri: uri.trim_end_matches('/').to_owned(),
            read_only: false,
            cancellation: Cancellation::default(),
            files: None,
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
        let request = self.request(StoreVerb::Read, name);
        self.wait_for(async move { fetch::whole_object(&request).await })
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
        let requests: Vec<_> = names
            .iter()
            .map(|name| self.request(StoreVerb::Read, name))
            .collect();

        let answers = block_on(async move {
            let get = |request: Request| async move { fetch::whole_object(&request).await };

            // `buffered` keeps the order of the names, by which the caller finds its answers.
            stream::iter(requests)
                .map(get)
                .buffered(OBJECTS_IN_FLIGHT)
                .map(|answer| answer.map_err(Error::from))
                .collect()
                .await
        });

        answers.unwrap_or_else(|error| vec![Err(error)])
    }

    /// The bytes of an object from one place to another.
    ///
    /// # Errors
    /// As [`Store::get`]; if the object ends before that place.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let request = self.request(StoreVerb::Read, name);
        let wanted = range.clone();
        let found = self.wait_for(async move { fetch::byte_range(&request, range).await });
        self.expect_whole_range(name, &wanted, found)
    }

    /// A range that goes beyond the end is answered with fewer bytes and no error, or refused.
    fn expect_whole_range(
        &self,
        name: &str,
        wanted: &Range<u64>,
        found: Result<Bytes>,
    ) -> Result<Bytes> {
        let is_short = match &found {
            Ok(bytes) => bytes.len() as u64 != wanted.end - wanted.start,
            Err(Error::Store(fault)) => fault.kind == StoreErrorKind::InvalidRange,
            Err(_) => false,
        };

        match is_short {
            false => found,
            true => Err(Error::Data(format!(
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
        match self.existing_size(name) {
            Ok(size) => Ok(Some(size)),
            Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn existing_size(&self, name: &str) -> Result<u64> {
        let request = self.request(StoreVerb::Read, name);
        let head = |objects: Arc<dyn ObjectStore>, path: Path| async move {
            objects.head(&path).await.map(|meta| meta.size)
        };

        self.wait_for(async move {
            let denied = match request.run(head).await {
                Err(error) if error.kind == StoreErrorKind::PermissionDenied => error,
                answer => return answer,
            };

            // The answer to HEAD has no body, and with it no code that says why.
            let explained = fetch::byte_range(&request, 0..1).await;
            Err(explained.err().unwrap_or(denied))
        })
    }

    /// Every object below this store, in name order.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub fn list_objects(&self) -> Result<Vec<ObjectEntry>> {
        let request = self.request(StoreVerb::List, "");
        let prefix = self.prefix.clone();
        let list = |objects: Arc<dyn ObjectStore>, prefix: Path| async move {
            objects.list(Some(&prefix)).try_collect::<Vec<_>>().await
        };

        let found = self.wait_for(async move { request.run(list).await })?;
        let mut entries: Vec<ObjectEntry> = found
            .iter()
            .filter_map(|meta| {
                let parts: Vec<_> = meta.location.prefix_match(&prefix)?.collect();
                let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();

                Some(ObjectEntry {
                    name: parts.join("/"),
                    bytes: meta.size,
                })
            })
            .collect();

        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn object_path(&self, name: &str) -> Path {
        // Empty parts are dropped, so that a prefix may end in `/` or not.
        let parts = name.split('/').filter(|part| !part.is_empty());
        // A name is taken as it is: what a store lists can be read back by that name.
        let part = |part| PathPart::parse(part).unwrap_or_else(|_| PathPart::from(part));
        parts.fold(self.prefix.clone(), |path, name| path.join(part(name)))
    }

    fn request(&self, verb: StoreVerb, name: &str) -> Request {
        let objects = match verb {
            StoreVerb::Write | StoreVerb::Delete => &self.writes,
            StoreVerb::Read | StoreVerb::List | StoreVerb::Open => &self.reads,
        };

        Request {
            objects: objects.clone(),
            multipart: self.multipart.clone(),
            retry: self.retry.clone(),
            verb,
            path: self.object_path(name),
            uri: self.object_uri(name),
        }
    }

    /// Waits for an answer on the store's own threads, so that any thread may wait for it, one that belongs to an
    /// async runtime too.
    fn wait_for<T: Send + 'static>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T> {
        let cancellation = self.cancellation.clone();
        let answer = async move { cancellation.run_unless_cancelled(answer).await };
        Ok(block_on(answer)???)
    }
}

#[cfg(test)]
mod tests;
