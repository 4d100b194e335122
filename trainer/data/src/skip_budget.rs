//! How many records of a data set may be unusable before that is an error, and the first of them for its
//! message. Counts nothing itself: each user knows what its records are.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Examples that are kept: enough to find the cause, few enough for a condition of a Kubernetes object.
const MAX_EXAMPLES: usize = 5;

/// The largest share of records that may be unusable.
///
/// ```
/// use cnclip_data::skip_budget::{SkipBudget, SkipExamples, SkipReport};
///
/// let mut examples = SkipExamples::default();
/// examples.push_with(|| "texts.jsonl line 7".to_owned());
/// let report = SkipReport {
///     skipped: 3,
///     total: 200,
///     records: "texts",
///     detail: "",
///     examples: format!("{}.", examples.join("; ")),
///     remedy: "Correct them.",
/// };
///
/// assert!(SkipBudget::new(0.02).check(&report).is_ok());
/// let error = SkipBudget::new(0.01).check(&report).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "3 of 200 texts cannot be used; at most 1 % may be. The first: texts.jsonl line 7. Correct them."
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SkipBudget {
    max_ratio: f64,
}

/// What was skipped, as its message describes it.
#[derive(Clone, Debug)]
pub struct SkipReport<'a> {
    /// Records that cannot be used.
    pub skipped: u64,
    /// Records that they are among.
    pub total: u64,
    /// What the records are, in plural.
    pub records: &'a str,
    /// The kinds of failures in parentheses behind a space, or nothing.
    pub detail: &'a str,
    /// The first of them, as sentences.
    pub examples: String,
    /// What to do about it.
    pub remedy: &'a str,
}

impl SkipBudget {
    /// Allows this share of all records, 0 to 1.
    pub fn new(max_ratio: f64) -> Self {
        Self { max_ratio }
    }

    /// # Errors
    /// If more records were skipped than are allowed.
    pub fn check(&self, report: &SkipReport<'_>) -> Result<()> {
        let SkipReport {
            skipped,
            total,
            records,
            detail,
            examples,
            remedy,
        } = report;

        // Compared as a product: a share of no records at all would be no number.
        if *skipped as f64 <= self.max_ratio * *total as f64 {
            return Ok(());
        }

        let percent = self.max_ratio * 100.0;
        Err(Error::Data(format!(
            "{skipped} of {total} {records} cannot be used{detail}; at most {percent} % may be. The first: \
             {examples} {remedy}"
        )))
    }
}

/// The first few unusable records, each with where it is or what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SkipExamples(Vec<String>);

impl SkipExamples {
    /// Keeps one more, unless there are enough.
    pub fn push_with(&mut self, example: impl FnOnce() -> String) {
        // The text is made here only: of a million unusable records it would be made a million times.
        if self.0.len() < MAX_EXAMPLES {
            self.0.push(example());
        }
    }

    /// Keeps one more, unless it is there already or there are enough.
    pub fn push_unique(&mut self, example: String) {
        if !self.0.contains(&example) {
            self.push_with(|| example);
        }
    }

    /// Keeps those that were found behind these.
    pub fn extend(&mut self, next: Self) {
        next.0
            .into_iter()
            .for_each(|example| self.push_with(|| example));
    }

    /// Changes the text of each.
    pub fn map(&mut self, change: impl Fn(&str) -> String) {
        self.0
            .iter_mut()
            .for_each(|example| *example = change(example));
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// All of them with a separator between.
    pub fn join(&self, separator: &str) -> String {
        self.0.join(separator)
    }
}

impl From<Vec<String>> for SkipExamples {
    /// Keeps the first few of these.
    fn from(mut examples: Vec<String>) -> Self {
        examples.truncate(MAX_EXAMPLES);
        Self(examples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(skipped: u64, total: u64) -> SkipReport<'static> {
        SkipReport {
            skipped,
            total,
            records: "samples",
            detail: " (1 kind)",
            examples: "a is bad.".into(),
            remedy: "Correct them.",
        }
    }

    #[test]
    fn the_share_itself_is_allowed_and_one_more_is_not() {
        let budget = SkipBudget::new(0.25);
        assert!(budget.check(&report(1, 4)).is_ok());
        assert!(budget.check(&report(0, 0)).is_ok());
        let error = budget.check(&report(2, 4)).unwrap_err();
        assert_eq!(error.exit().exit_code(), 65);
        assert_eq!(
            error.to_string(),
            "2 of 4 samples cannot be used (1 kind); at most 25 % may be. The first: a is bad. Correct them."
        );
    }

    #[test]
    fn only_the_first_five_examples_are_kept() {
        let mut examples = SkipExamples::from(vec!["0".to_owned(); 3]);
        examples.extend(SkipExamples::from(vec!["1".to_owned(); 3]));
        examples.push_with(|| unreachable!("there are enough"));
        assert_eq!(examples.join(""), "00011");

        let mut unique = SkipExamples::default();
        for text in ["a", "b", "a"] {
            unique.push_unique(text.to_owned());
        }

        assert_eq!(unique.iter().collect::<Vec<_>>(), ["a", "b"]);
    }
}
