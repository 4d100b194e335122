//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also after a thread panicked while it held it.
///
/// For values that a panic cannot leave half changed: a poisoned lock would only hide the first panic behind
/// others.
///
/// ```
/// let counter = std::sync::Mutex::new(0);
/// *cnclip_compute::sync::lock_ignoring_poison(&counter) += 1;
/// assert_eq!(*cnclip_compute::sync::lock_ignoring_poison(&counter), 1);
/// ```
pub fn lock_ignoring_poison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
