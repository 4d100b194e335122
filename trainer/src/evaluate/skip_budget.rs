//! The samples of an evaluation that cannot be used, over all ranks, and whether they are too many.

use cnclip_data::skip_budget::{SkipBudget, SkipExamples, SkipReport};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How many samples cannot be used, and the first of them with why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EvalSkipBudget {
    pub(super) count: u64,
    examples: SkipExamples,
}

impl EvalSkipBudget {
    /// So many samples, with examples of some of them.
    pub(super) fn new(count: u64, examples: Vec<String>) -> Self {
        Self {
            count,
            examples: examples.into(),
        }
    }

    /// Adds one sample.
    pub(super) fn record_skip(&mut self, example: String) {
        self.merge_skips(Self::new(1, vec![example]));
    }

    /// Adds the samples of the next share.
    pub(super) fn merge_skips(&mut self, next: Self) {
        self.count += next.count;
        self.examples.extend(next.examples);
    }

    /// # Errors
    /// If more than the share `max_ratio` of `total` samples is unusable, or all of them.
    pub(super) fn ensure_within_limit(
        &self,
        max_ratio: f64,
        total: u64,
        samples: &str,
    ) -> Result<()> {
        let examples = self.examples.join(" ");
        // Whatever the limit, there is nothing left to score.
        if self.count > 0 && self.count == total {
            return Err(Error::Data(format!(
                "none of the {total} {samples} can be used. The first: {examples} Correct the data set."
            )));
        }

        Ok(SkipBudget::new(max_ratio).check(&SkipReport {
            skipped: self.count,
            total,
            records: samples,
            detail: "",
            examples,
            remedy: "Correct the data set, or raise maxSkippedPercent.",
        })?)
    }
}
