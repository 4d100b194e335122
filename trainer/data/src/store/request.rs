//! One request to a store, repeated as [`RequestRetry`] decides.

use std::future::Future;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use super::multipart::MultipartClient;
use super::retry::RequestRetry;
use crate::error::{StoreError, StoreVerb};

/// What is asked of a store, as often as it takes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) multipart: Option<MultipartClient>,
    pub(super) retry: Arc<RequestRetry>,
    pub(super) verb: StoreVerb,
    pub(super) path: Path,
    pub(super) uri: String,
}

impl Request {
    /// # Errors
    /// If it fails for good, or for as long as an outage may last.
    pub(super) async fn run<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        attempt: impl Fn(Arc<dyn ObjectStore>, Path) -> F,
    ) -> Result<T, StoreError> {
        let attempt = || attempt(self.objects.clone(), self.path.clone());
        self.retry.run(self.verb, &self.uri, attempt).await
    }

    /// The error of a request that is not repeated.
    pub(super) fn to_error(&self, source: object_store::Error) -> StoreError {
        self.retry.to_error(self.verb, &self.uri, source)
    }
}
