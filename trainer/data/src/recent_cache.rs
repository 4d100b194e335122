//! The few values that were used last, made once for all threads that need them.

use std::sync::{Arc, Mutex};

use cnclip_compute::sync::lock_ignoring_poison;

/// A cache of a handful of values, searched from the most recently used to the least.
///
/// A list and not a map: it holds about four values, and what makes one match need not be a key (a window
/// covers a range of positions).
#[derive(Debug)]
pub(crate) struct RecentCache<T> {
    capacity: usize,
    /// Most recently used first.
    values: Mutex<Vec<Arc<T>>>,
}

impl<T> RecentCache<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            values: Mutex::default(),
        }
    }

    /// The value that matches, made if there is none.
    pub(crate) fn get_or_insert_with(
        &self,
        matches: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        // The lock is held while a value is made: threads that need the same one wait for it instead of
        // each making their own, which takes seconds for a large window.
        let mut values = lock_ignoring_poison(&self.values);
        let found = values.iter().position(|value| matches(value));
        let value = match found {
            Some(index) => values.remove(index),
            None => Arc::new(make()),
        };

        values.insert(0, value.clone());
        values.truncate(self.capacity);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_until_others_were_used_more_recently() {
        let cache = RecentCache::new(2);
        let made = Mutex::new(Vec::new());
        let get = |number: u8| {
            let make = || {
                made.lock().unwrap().push(number);
                number
            };

            *cache.get_or_insert_with(|value| *value == number, make)
        };

        for number in [1, 2, 1, 3, 1, 2] {
            assert_eq!(get(number), number);
        }

        assert_eq!(*made.lock().unwrap(), [1, 2, 3, 2]);
    }
}
