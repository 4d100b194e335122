//! What of a data set cannot be used, and whether that is too much. Never finds out what can.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const MAX_SKIP_EXAMPLES: usize = 5;

/// How much cannot be used, and the first of it with why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EvalSkipBudget {
    pub(super) count: u64,
    examples: Vec<String>,
}

impl EvalSkipBudget {
    /// So much, of which not all can be told.
    pub(super) fn new(count: u64, examples: Vec<String>) -> Self {
        Self { count, examples }
    }

    /// One thing more.
    pub(super) fn record_skip(&mut self, told: String) {
        self.merge_skips(Self::new(1, vec![told]));
    }

    /// Adds what was found behind it.
    pub(super) fn merge_skips(&mut self, next: Self) {
        self.count += next.count;
        let room = MAX_SKIP_EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(next.examples.into_iter().take(room));
    }

    /// Whether so much of `total` may be left out, as a share.
    ///
    /// # Errors
    /// If it is more, or all of it.
    pub(super) fn ensure_within_limit(&self, most: f64, (total, what): (u64, &str)) -> Result<()> {
        if self.count > 0 && self.count == total {
            return Err(Error::Data(format!(
                "none of the {total} {what} can be used. The first: {} Correct the data set.",
                self.examples.join(" ")
            )));
        }

        if self.count as f64 <= most * total as f64 {
            return Ok(());
        }

        Err(Error::Data(format!(
            "{} of {total} {what} cannot be used; at most {} % may be. The first: {} Correct the data \
             set, or raise maxSkippedPercent.",
            self.count,
            most * 100.0,
            self.examples.join(" ")
        )))
    }
}
