//! What is wrong with a data set, gathered so that all of it is told at once.

use crate::error::{Error, Result};

/// Mistakes that are told; the others are counted.
const TOLD: usize = 8;
/// Examples of one mistake.
const EXAMPLES: usize = 5;

/// What was found so far.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Mistakes(pub(super) Vec<String>);

impl Mistakes {
    /// One more, in a sentence.
    pub(super) fn add(&mut self, told: impl Into<String>) {
        self.0.push(told.into());
    }

    /// One more, if there are examples of it.
    pub(super) fn of(&mut self, examples: &[impl ToString], told: impl FnOnce(String) -> String) {
        if !examples.is_empty() {
            self.add(told(listed(examples)));
        }
    }

    /// # Errors
    /// If there is one.
    pub(super) fn check(self, what: &str) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }

        let rest = self.0.len().saturating_sub(TOLD);
        let more = if rest > 0 {
            format!(" And {rest} more.")
        } else {
            String::new()
        };

        let told = self
            .0
            .iter()
            .take(TOLD)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ");

        Err(Error::Data(format!(
            "{what} cannot be scored. {told}{more}"
        )))
    }
}

/// The first examples, and how many more there are.
fn listed(examples: &[impl ToString]) -> String {
    let told: Vec<_> = examples
        .iter()
        .take(EXAMPLES)
        .map(ToString::to_string)
        .collect();

    match examples.len().saturating_sub(EXAMPLES) {
        0 => told.join(", "),
        rest => format!("{} and {rest} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_mistakes_are_told_briefly() {
        let mut mistakes = Mistakes::default();
        mistakes.of(&[1, 2, 3, 4, 5, 6, 7], |found| format!("Numbers {found}."));
        mistakes.of(&[0; 0], |_| "never".to_owned());
        (0..9).for_each(|_| mistakes.add("X."));
        let told = mistakes.check("Task a").unwrap_err();

        assert_eq!(told.exit().code(), 65);
        let told = told.to_string();
        assert!(told.starts_with("Task a cannot be scored. Numbers 1, 2, 3, 4, 5 and 2 more. X."));
        assert!(told.ends_with("X. And 2 more."), "{told}");
        assert_eq!(told.matches("X.").count(), 7);
        Mistakes::default().check("Task a").unwrap();
    }
}
