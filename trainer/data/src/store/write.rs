//! Writes and removes objects.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::multipart::UPLOAD_ID_SUFFIX;
use super::{PART_BYTES, Store, multipart, upload};
use crate::error::{Error, Result, StoreError, StoreVerb};

impl Store {
    /// Writes an object, over one that is there.
    ///
    /// # Errors
    /// If the store is read-only, refuses, or does not answer.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.ensure_writable(name)?;
        let request = self.request(StoreVerb::Write, name);
        if bytes.len() as u64 > PART_BYTES {
            return self.wait_for(async move { upload::put_in_parts(&request, bytes).await });
        }

        let put = move |objects: Arc<dyn ObjectStore>, path: Path| {
            let payload = PutPayload::from_bytes(bytes.clone());
            async move { objects.put(&path, payload).await.map(drop) }
        };

        self.wait_for(async move { request.run(put).await })
    }

    /// Writes an object only if there is none of that name; says whether it did.
    ///
    /// # Errors
    /// As [`Store::put`].
    ///
    /// # Guarantees
    /// Of all callers with one name, at most one gets `true`. If an answer was lost on the way, that may be none.
    pub fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool> {
        self.ensure_writable(name)?;
        let request = self.request(StoreVerb::Write, name);
        let create = move |objects: Arc<dyn ObjectStore>, path: Path| {
            let payload = PutPayload::from_bytes(bytes.clone());
            async move {
                let options = PutOptions::from(PutMode::Create);
                // S3 answers 412 (precondition) where others answer 409 or that the object exists.
                match objects.put_opts(&path, payload, options).await {
                    Ok(_) => Ok(true),
                    Err(
                        object_store::Error::AlreadyExists { .. }
                        | object_store::Error::Precondition { .. },
                    ) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        };

        self.wait_for(async move { request.run(create).await })
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete(&self, name: &str) -> Result<()> {
        self.ensure_writable(name)?;
        let request = self.request(StoreVerb::Delete, name);
        let delete = |objects: Arc<dyn ObjectStore>, path: Path| async move {
            match objects.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        };

        self.wait_for(async move { request.run(delete).await })
    }

    /// Removes everything in a folder, also what killed uploads left behind, which is not listed and would fill the
    /// volume or be paid for.
    ///
    /// # Errors
    /// As [`Store::put`]; if the name is empty, which would remove everything there is.
    pub fn delete_folder(&self, name: &str) -> Result<()> {
        self.ensure_writable(name)?;
        let path = self.object_path(name);
        if path == self.prefix {
            return Err(Error::Bug(format!("no folder in {} to remove", self.uri)));
        }

        if let Some(files) = &self.files {
            let folder = files.path_to_filesystem(&path);
            let folder = folder.map_err(|error| {
                StoreError::new(StoreVerb::Delete, &self.object_uri(name), error)
            })?;
            return remove_local_folder(&folder);
        }

        let folder = self.join_prefix(name);
        for entry in folder.list_objects()? {
            if let Some(object) = entry.name.strip_suffix(UPLOAD_ID_SUFFIX) {
                folder.abort_upload(object)?;
            }

            folder.delete(&entry.name)?;
        }

        Ok(())
    }

    /// Removes the parts of an upload that was not finished; they are not listed.
    fn abort_upload(&self, name: &str) -> Result<()> {
        let Some(client) = self.multipart.clone() else {
            return Ok(());
        };

        let request = self.request(StoreVerb::Delete, name);
        self.wait_for(async move { multipart::abort_recorded(&request, &client).await })
    }

    pub(super) fn ensure_writable(&self, name: &str) -> Result<()> {
        match self.read_only {
            true => Err(StoreError::read_only(&self.object_uri(name)).into()),
            false => Ok(()),
        }
    }
}

fn remove_local_folder(folder: &FilePath) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
