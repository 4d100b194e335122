//! Named threads, so that a debugger and `top -H` show what each is for.

use std::thread::{Builder, JoinHandle};

/// Starts a named thread.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn spawn_named<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}
