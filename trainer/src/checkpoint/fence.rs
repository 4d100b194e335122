//! Decides which process may write under a prefix: the last one that claimed it. Never writes
//! anything but claims, and relies on nothing but "create if absent", which every store has.
//!
//! A claim is an object named by its term, `fence/<term>.json`. Terms only grow; a process that finds a
//! higher one than its own has been replaced. It is a fencing token, not a lock: nothing expires, and no
//! clock is compared.

use cnclip_crds::artifacts::FENCE_FOLDER;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use cnclip_data::store::{Cancellation, Store};

/// Who claims a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceClaim {
    /// The run: its UID, or its name when there is no cluster.
    pub run: String,
    /// The attempt at the stage, from 1.
    pub attempt: u32,
}

/// The right to write under a prefix.
#[derive(Clone, Debug)]
pub struct Fence {
    store: Store,
    claim: FenceClaim,
    term: u64,
}

impl Fence {
    /// Claims a prefix. A process that claimed it earlier for the same run and the same attempt or
    /// an earlier one is replaced.
    ///
    /// # Errors
    /// If a later attempt or another run holds it; if the store fails.
    ///
    /// # Guarantees
    /// No two processes get the same term.
    pub fn acquire(store: &Store, claim: FenceClaim) -> Result<Self> {
        let text = serde_json::to_vec(&claim)
            .map_err(|error| Error::Bug(format!("cannot write a claim as JSON: {error}")))?;
        let folder = store.join_prefix(FENCE_FOLDER);

        // Two processes may find the same last term; "create if absent" lets one of them have the next,
        // and the other looks again.
        loop {
            let last = last_term(&folder)?;
            if let Some(term) = last {
                claim.ensure_may_replace(&folder, &read_claim(&folder, term)?)?;
            }

            let term = last.unwrap_or(0) + 1;
            if folder.put_if_absent(&claim_file_name(term), text.clone().into())? {
                return Ok(Self {
                    store: folder,
                    claim,
                    term,
                });
            }
        }
    }

    /// The same right, whose requests to the store can be cancelled.
    pub(super) fn with_cancellation(&self, cancellation: &Cancellation) -> Self {
        Self {
            store: self.store.with_cancellation(cancellation),
            ..self.clone()
        }
    }

    /// The number of this claim.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Checks that the claim still holds.
    ///
    /// # Errors
    /// If another process claimed the prefix since; if the store fails.
    pub fn ensure_held(&self) -> Result<()> {
        match last_term(&self.store)? {
            Some(term) if term > self.term => {
                let FenceClaim { run, attempt } = read_claim(&self.store, term)?;
                Err(Error::Fenced(format!(
                    "attempt {} may no longer write to {}: attempt {attempt} of run {run} took it \
                     over. Nothing was written; let the later attempt go on.",
                    self.claim.attempt,
                    self.store.uri()
                )))
            }
            _ => Ok(()),
        }
    }
}

impl FenceClaim {
    fn ensure_may_replace(&self, folder: &Store, held: &FenceClaim) -> Result<()> {
        let uri = folder.uri();
        if held.run != self.run {
            return Err(Error::Fenced(format!(
                "{uri} says that run {} writes there, this is run {}. Give each run its own prefix, \
                 or delete {uri} to go on from the checkpoints of the other.",
                held.run, self.run
            )));
        }

        // An equal attempt may take over: a container that the kubelet restarts in its pod carries
        // the same number, and its predecessor is gone.
        if held.attempt > self.attempt {
            return Err(Error::Fenced(format!(
                "{uri} says that attempt {} writes there, this is attempt {}. Let the later attempt \
                 go on.",
                held.attempt, self.attempt
            )));
        }

        Ok(())
    }
}

fn claim_file_name(term: u64) -> String {
    format!("{term:08}.json")
}

fn last_term(folder: &Store) -> Result<Option<u64>> {
    let entries = folder.list_objects()?;
    // Compared as numbers, so that terms of more than eight digits still grow.
    let terms = entries
        .iter()
        .filter_map(|entry| entry.name.strip_suffix(".json")?.parse().ok());

    Ok(terms.max())
}

fn read_claim(folder: &Store, term: u64) -> Result<FenceClaim> {
    let bytes = folder.get(&claim_file_name(term))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::Data(format!(
            "{} is no claim: {error}. Delete it.",
            folder.object_uri(&claim_file_name(term))
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(store: &Store, run: &str, attempt: u32) -> Result<Fence> {
        Fence::acquire(
            store,
            FenceClaim {
                run: run.into(),
                attempt,
            },
        )
    }

    fn contract(store: &Store) {
        let first = claim(store, "a", 1).unwrap();
        first.ensure_held().unwrap();
        let again = claim(store, "a", 1).unwrap();
        assert!(
            again.term() > first.term(),
            "a process that was restarted replaces the old one"
        );

        let error = first.ensure_held().unwrap_err();
        assert!(matches!(&error, Error::Fenced(text) if text.contains("attempt 1 of run a")));

        let third = claim(store, "a", 3).unwrap();
        again.ensure_held().unwrap_err();
        let late = claim(store, "a", 2).unwrap_err();
        assert!(
            late.to_string()
                .contains("attempt 3 writes there, this is attempt 2"),
            "{late}"
        );

        let stranger = claim(store, "b", 9).unwrap_err();
        assert!(
            stranger
                .to_string()
                .contains("run a writes there, this is run b"),
            "{stranger}"
        );

        third.ensure_held().unwrap();
    }

    #[test]
    fn a_fence_in_memory_and_in_a_folder_keeps_the_contract() {
        contract(&Store::in_memory());
        let folder = tempfile::tempdir().unwrap();
        contract(&Store::open(folder.path().to_str().unwrap()).unwrap());
    }

    #[test]
    fn of_processes_that_claim_at_once_exactly_one_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let store = store.clone();
                std::thread::spawn(move || claim(&store, "a", 1).unwrap())
            })
            .collect();

        let fences: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();

        assert_eq!(
            fences
                .iter()
                .filter(|fence| fence.ensure_held().is_ok())
                .count(),
            1
        );
    }
}
