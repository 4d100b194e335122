//! Uploads in parts that leave nothing behind when the process is killed: the id of an upload is stored next to its
//! object until the object is whole, so that whoever writes or removes the object later can abort the upload.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cnclip_compute::sync::lock_ignoring_poison;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    MultipartId, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, PutResult, UploadPart,
};

use super::Request;
use crate::error::{StoreError, StoreErrorKind, StoreVerb};

/// What the name of the object with an upload's id ends with.
pub(super) const UPLOAD_ID_SUFFIX: &str = ".upload-id";

/// A client of a store that gives ids to uploads.
#[derive(Clone)]
pub(super) struct MultipartClient(Arc<dyn MultipartStore>);

impl MultipartClient {
    pub(super) fn new(client: Arc<dyn MultipartStore>) -> Self {
        Self(client)
    }
}

impl fmt::Debug for MultipartClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MultipartClient")
    }
}

/// An upload of one object. Each request is repeated by itself for as long as an outage may last.
#[derive(Debug)]
pub(super) struct RecordedUpload {
    request: Request,
    client: MultipartClient,
    id: MultipartId,
    parts: Arc<Mutex<Vec<Option<PartId>>>>,
}

impl RecordedUpload {
    /// Begins an upload; aborts the one that an earlier process began for the same object.
    ///
    /// # Errors
    /// If the store refuses, or does not answer.
    pub(super) async fn begin(
        request: Request,
        client: MultipartClient,
    ) -> Result<Self, StoreError> {
        abort_recorded(&request, &client).await?;
        let id = request
            .run(|_, path| {
                let client = client.0.clone();
                async move { client.create_multipart(&path).await }
            })
            .await?;

        // Before the first part: without parts, an upload that is not recorded takes no space.
        let record = id.clone();
        let put = move |objects: Arc<dyn ObjectStore>, path: Path| {
            let record = PutPayload::from(record.clone());
            async move { objects.put(&path, record).await.map(drop) }
        };

        record_request(&request, StoreVerb::Write).run(put).await?;
        Ok(Self {
            request,
            client,
            id,
            parts: Arc::default(),
        })
    }

    /// All parts, in their order, as the caller has waited for them.
    fn finished_parts(&self) -> Vec<PartId> {
        let parts = lock_ignoring_poison(&self.parts);
        parts.iter().flatten().cloned().collect()
    }
}

#[async_trait]
impl MultipartUpload for RecordedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = {
            let mut parts = lock_ignoring_poison(&self.parts);
            parts.push(None);
            parts.len() - 1
        };

        let (request, parts) = (self.request.clone(), self.parts.clone());
        let (client, id) = (self.client.0.clone(), self.id.clone());
        Box::pin(async move {
            let put = |_, path| {
                let (client, id, data) = (client.clone(), id.clone(), data.clone());
                async move { client.put_part(&path, &id, index, data).await }
            };

            let part = request.run(put).await.map_err(StoreError::into_source)?;
            lock_ignoring_poison(&parts)[index] = Some(part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts = self.finished_parts();
        let complete = |_, path| {
            let (client, id) = (self.client.0.clone(), self.id.clone());
            let parts = parts.clone();
            async move { client.complete_multipart(&path, &id, parts).await }
        };

        let done = self.request.run(complete).await;
        let done = done.map_err(StoreError::into_source)?;
        // The object is whole: a record that stays behind costs one request when it is written again.
        if let Err(error) = delete_record(&self.request).await {
            tracing::debug!("{error}");
        }

        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        let aborted = abort(&self.request, &self.client, &self.id).await;
        aborted.map_err(StoreError::into_source)
    }
}

/// Aborts the upload of an object that an earlier process began and did not end, if there is one.
///
/// # Errors
/// If the store refuses, or does not answer.
pub(super) async fn abort_recorded(
    request: &Request,
    client: &MultipartClient,
) -> Result<(), StoreError> {
    let Some(id) = read_record(request).await? else {
        return Ok(());
    };

    tracing::info!(
        uri = request.uri,
        "removing an upload that was not finished"
    );
    abort(request, client, &id).await
}

async fn read_record(request: &Request) -> Result<Option<MultipartId>, StoreError> {
    let record = record_request(request, StoreVerb::Read);
    let get = |objects: Arc<dyn ObjectStore>, path: Path| async move {
        objects.get(&path).await?.bytes().await
    };

    // Asked once before it is repeated: to those who may not list a bucket, S3 says 403 of what does not exist.
    let first = get(record.objects.clone(), record.path.clone()).await;
    let found = match first.map_err(|source| record.to_error(source)) {
        Err(error) if error.is_transient() => record.run(get).await,
        first => first,
    };

    match found {
        Ok(id) => Ok(Some(String::from_utf8_lossy(&id).into_owned())),
        Err(error) => match error.kind {
            StoreErrorKind::NotFound | StoreErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        },
    }
}

async fn abort(
    request: &Request,
    client: &MultipartClient,
    id: &MultipartId,
) -> Result<(), StoreError> {
    let abort = |_, path| {
        let client = client.0.clone();
        async move { client.abort_multipart(&path, id).await }
    };

    match request.run(abort).await {
        Err(error) if error.is_transient() => return Err(error),
        // It was completed or aborted, and only its record is left.
        Err(error) if error.kind == StoreErrorKind::NotFound => {}
        // A record that is damaged must not keep the object from being written.
        Err(error) => tracing::warn!("an unfinished upload may still be stored: {error}"),
        Ok(()) => {}
    }

    delete_record(request).await
}

async fn delete_record(request: &Request) -> Result<(), StoreError> {
    let delete =
        |objects: Arc<dyn ObjectStore>, path: Path| async move { objects.delete(&path).await };

    match record_request(request, StoreVerb::Delete).run(delete).await {
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A request for the object that holds the id of an object's upload.
fn record_request(request: &Request, verb: StoreVerb) -> Request {
    let path = format!("{}{UPLOAD_ID_SUFFIX}", request.path);
    Request {
        // The path of the object is valid, and so is a longer name.
        path: Path::parse(&path).unwrap_or_else(|_| Path::from(path)),
        uri: format!("{}{UPLOAD_ID_SUFFIX}", request.uri),
        verb,
        ..request.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{PART_BYTES, Store, block_on};

    const NAME: &str = "run#1/weights";

    fn request(store: &Store) -> Request {
        store.request(StoreVerb::Write, NAME)
    }

    /// An upload with one part, as a killed process leaves it.
    fn begin_and_abandon(store: &Store) -> RecordedUpload {
        let request = request(store);
        let client = request.multipart.clone().unwrap();

        block_on(async move {
            let mut upload = RecordedUpload::begin(request, client).await.unwrap();
            upload.put_part(PutPayload::from("part")).await.unwrap();
            upload
        })
        .unwrap()
    }

    /// Whether the parts of an upload are still stored.
    fn is_open(mut upload: RecordedUpload) -> bool {
        block_on(async move { upload.complete().await.is_ok() }).unwrap()
    }

    fn names(store: &Store) -> Vec<String> {
        let entries = store.list_objects().unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn an_upload_is_open_until_it_is_aborted() {
        let store = Store::in_memory();
        let upload = begin_and_abandon(&store);
        assert_eq!(names(&store), [format!("{NAME}{UPLOAD_ID_SUFFIX}")]);
        assert!(is_open(upload));
        assert_eq!(names(&store), [NAME]);
    }

    #[test]
    fn writing_the_object_again_aborts_what_a_killed_process_began() {
        let store = Store::in_memory();
        let upload = begin_and_abandon(&store);
        let content = bytes::Bytes::from(vec![1; PART_BYTES as usize + 1]);
        store.put(NAME, content.clone()).unwrap();

        assert_eq!(names(&store), [NAME]);
        assert!(!is_open(upload));
        assert!(store.get(NAME).unwrap() == content);
    }

    #[test]
    fn removing_the_folder_aborts_what_a_killed_process_began() {
        let store = Store::in_memory();
        let upload = begin_and_abandon(&store);
        store.delete_folder("run#1").unwrap();
        assert!(!is_open(upload));
        assert_eq!(names(&store), [] as [&str; 0]);
    }

    #[test]
    fn a_record_of_an_upload_that_is_not_there_is_only_removed() {
        let store = Store::in_memory();
        store.put(NAME, "whole".into()).unwrap();
        let record = format!("{NAME}{UPLOAD_ID_SUFFIX}");
        store.put(&record, "17".into()).unwrap();

        store
            .put(NAME, vec![2; PART_BYTES as usize + 1].into())
            .unwrap();
        assert_eq!(names(&store), [NAME]);
    }
}
