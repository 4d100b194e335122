//! Collects all errors of a data set, so that a user sees them at once instead of one per attempt.

use crate::error::{Error, Result};

/// Errors that are reported; further ones are counted.
const MAX_REPORTED_ERRORS: usize = 8;
/// Examples of one error.
const MAX_EXAMPLES: usize = 5;

/// The errors so far.
#[derive(Debug, Default, PartialEq)]
pub(super) struct DatasetErrors(pub(super) Vec<String>);

impl DatasetErrors {
    /// Adds an error, as a sentence.
    pub(super) fn push_error(&mut self, error: impl Into<String>) {
        self.0.push(error.into());
    }

    /// Adds an error if there are examples of it; `sentence` gets the examples.
    pub(super) fn push_with_examples(
        &mut self,
        examples: &[impl ToString],
        sentence: impl FnOnce(String) -> String,
    ) {
        if !examples.is_empty() {
            self.push_error(sentence(join_examples(examples)));
        }
    }

    /// # Errors
    /// If there is one.
    pub(super) fn into_result(self, what: &str) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }

        let rest = self.0.len().saturating_sub(MAX_REPORTED_ERRORS);
        let more = if rest > 0 {
            format!(" And {rest} more.")
        } else {
            String::new()
        };

        let errors = self
            .0
            .iter()
            .take(MAX_REPORTED_ERRORS)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ");

        Err(Error::Data(format!(
            "{what} cannot be scored. {errors}{more}"
        )))
    }
}

/// The first examples, and how many more there are.
fn join_examples(examples: &[impl ToString]) -> String {
    let shown: Vec<_> = examples
        .iter()
        .take(MAX_EXAMPLES)
        .map(ToString::to_string)
        .collect();

    match examples.len().saturating_sub(MAX_EXAMPLES) {
        0 => shown.join(", "),
        rest => format!("{} and {rest} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_errors_are_summarized() {
        let mut mistakes = DatasetErrors::default();
        mistakes.push_with_examples(&[1, 2, 3, 4, 5, 6, 7], |found| format!("Numbers {found}."));
        mistakes.push_with_examples(&[0; 0], |_| "never".to_owned());
        (0..9).for_each(|_| mistakes.push_error("X."));
        let told = mistakes.into_result("Task a").unwrap_err();

        assert_eq!(told.exit_code().exit_code(), 65);
        let told = told.to_string();
        assert!(told.starts_with("Task a cannot be scored. Numbers 1, 2, 3, 4, 5 and 2 more. X."));
        assert!(told.ends_with("X. And 2 more."), "{told}");
        assert_eq!(told.matches("X.").count(), 7);
        DatasetErrors::default().into_result("Task a").unwrap();
    }
}
