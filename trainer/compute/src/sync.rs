//! Locks.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also after a thread panicked while it held it; see [`ignore_poison`].
///
/// ```
/// let counter = std::sync::Mutex::new(0);
/// *cnclip_compute::sync::lock_ignoring_poison(&counter) += 1;
/// assert_eq!(*cnclip_compute::sync::lock_ignoring_poison(&counter), 1);
/// ```
pub fn lock_ignoring_poison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    ignore_poison(mutex.lock())
}

/// The guard or value of a lock, also after a thread panicked while it held it: of `RwLock::read`,
/// `Condvar::wait`, `Mutex::into_inner` and the like.
///
/// For values that a panic cannot leave half changed: each change is one assignment, or the work that may
/// panic is done before the first of them. Such a value is valid after a panic, and the panic itself already
/// ends the run; an `unwrap` would only bury its message under those of all other threads.
///
/// ```
/// use std::sync::RwLock;
///
/// use cnclip_compute::sync::ignore_poison;
///
/// let names = RwLock::new(vec!["gemm"]);
/// ignore_poison(names.write()).push("softmax");
/// assert_eq!(ignore_poison(names.read()).len(), 2);
/// ```
pub fn ignore_poison<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_lock_is_usable_after_a_panic_of_its_holder() {
        let value = Arc::new(Mutex::new(7));
        let shared = Arc::clone(&value);
        let holder = std::thread::spawn(move || {
            let _guard = shared.lock().unwrap();
            panic!("while the lock is held");
        });

        assert!(holder.join().is_err());
        assert!(value.is_poisoned());
        assert_eq!(*lock_ignoring_poison(&value), 7);
    }
}
