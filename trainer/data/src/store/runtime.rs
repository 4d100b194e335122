//! The threads of all stores of the process.

use std::future::Future;
use std::sync::{OnceLock, mpsc};

use tokio::runtime::Runtime;

use crate::error::{Error, Result};

/// Runs a task on the threads of the stores' runtime, while the calling thread waits.
///
/// # Errors
/// If it ends without an answer.
pub fn block_on<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Result<T> {
    // A channel and not `Runtime::block_on`, which panics on a thread that belongs to an async runtime.
    let (answer, wait) = mpsc::sync_channel(1);
    shared_runtime()?.spawn(async move { answer.send(task.await) });
    wait.recv()
        .map_err(|_| Error::Bug("a request never answered".into()))
}

/// Runs a task on the threads of the stores' runtime, and does not wait for it.
///
/// # Errors
/// If there are no such threads.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    drop(shared_runtime()?.spawn(task));
    Ok(())
}

/// The runtime that all stores of the process share.
fn shared_runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let built = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            // Requests wait for the network and need little CPU: two threads leave the cores to training.
            .worker_threads(2)
            .thread_name("store")
            .enable_all()
            .build()
    });

    built
        .as_ref()
        .map_err(|error| Error::Bug(format!("no threads for object stores: {error}")))
}
