//! Which runs reference a run, so that they are reconciled when it changes: the evaluations of a training,
//! and those that a baseline is compared with.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use crate::{run_key::RunKey, sync::lock_ignoring_poison};

/// Runs by the runs that they reference.
#[derive(Default)]
pub struct Dependents {
    index: Mutex<ReferenceIndex>,
}

#[derive(Default)]
struct ReferenceIndex {
    references: HashMap<RunKey, Vec<RunKey>>,
    dependents: HashMap<RunKey, HashSet<RunKey>>,
}

impl Dependents {
    /// Sets what a run references; without references, it is removed.
    pub fn set_references(&self, run: RunKey, references: Vec<RunKey>) {
        let mut index = lock_ignoring_poison(&self.index);
        index.remove(&run);
        if references.is_empty() {
            return;
        }

        for reference in &references {
            let dependents = index.dependents.entry(reference.clone()).or_default();
            dependents.insert(run.clone());
        }

        index.references.insert(run, references);
    }

    /// Removes the references of all runs that do not match.
    pub fn retain_runs(&self, keep: impl Fn(&RunKey) -> bool) {
        let mut index = lock_ignoring_poison(&self.index);
        let gone: Vec<_> = index
            .references
            .keys()
            .filter(|run| !keep(run))
            .cloned()
            .collect();

        gone.iter().for_each(|run| index.remove(run));
    }

    /// The runs that reference a run, whether that exists or not.
    pub fn find_dependents(&self, run: &RunKey) -> Vec<RunKey> {
        let index = lock_ignoring_poison(&self.index);
        index
            .dependents
            .get(run)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

impl ReferenceIndex {
    fn remove(&mut self, run: &RunKey) {
        for reference in self.references.remove(run).unwrap_or_default() {
            let Some(dependents) = self.dependents.get_mut(&reference) else {
                continue;
            };

            dependents.remove(run);
            if dependents.is_empty() {
                self.dependents.remove(&reference);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::cluster_fixtures::run_key;

    #[test]
    fn a_run_is_found_by_what_it_references_now() {
        let dependents = Dependents::default();
        let training = run_key("training", "muge");
        let baseline = run_key("evaluation", "old");
        let scores = run_key("evaluation", "scores");
        dependents.set_references(scores.clone(), vec![training.clone(), baseline.clone()]);
        assert_eq!(
            dependents.find_dependents(&training),
            slice::from_ref(&scores)
        );
        assert_eq!(
            dependents.find_dependents(&baseline),
            slice::from_ref(&scores)
        );

        // The gate was edited.
        dependents.set_references(scores.clone(), vec![training.clone()]);
        assert_eq!(dependents.find_dependents(&training), [scores]);
        assert_eq!(dependents.find_dependents(&baseline), []);
    }

    #[test]
    fn nothing_is_kept_of_runs_that_are_gone() {
        let dependents = Dependents::default();
        let training = run_key("training", "muge");
        for name in ["deleted", "edited"] {
            let scores = run_key("evaluation", name);
            dependents.set_references(scores, vec![training.clone()]);
        }

        dependents.retain_runs(|run| run.name != "deleted");
        dependents.set_references(run_key("evaluation", "edited"), Vec::new());
        let index = dependents.index.lock().unwrap();
        assert!(index.references.is_empty());
        assert!(index.dependents.is_empty());
    }
}
