//! Ends requests that their caller no longer waits for.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::Store;
use crate::error::{Error, Result};

/// Ends the requests of stores that were given it. Cloning is cheap: clones are one.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(CancellationToken);

impl Cancellation {
    /// Ends all requests that are under way, and those that come later.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    pub(super) async fn run_unless_cancelled<T>(&self, task: impl Future<Output = T>) -> Result<T> {
        let cancelled = || Error::Cancelled("its caller no longer waits for it".into());
        self.0.run_until_cancelled(task).await.ok_or_else(cancelled)
    }
}

impl Store {
    /// The same store, whose requests end with [`Error::Cancelled`] when they are cancelled.
    ///
    /// ```
    /// use cnclip_data::store::{Cancellation, Store};
    ///
    /// # fn main() -> cnclip_data::error::Result<()> {
    /// let cancellation = Cancellation::default();
    /// let store = Store::in_memory().with_cancellation(&cancellation);
    /// store.put("a", "x".into())?;
    /// cancellation.cancel();
    /// assert!(store.put("b", "x".into()).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Guarantees
    /// An object that was being written is there as it was before, or whole.
    pub fn with_cancellation(&self, cancellation: &Cancellation) -> Self {
        Self {
            cancellation: cancellation.clone(),
            ..self.clone()
        }
    }
}
