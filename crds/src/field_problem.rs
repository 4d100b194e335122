//! A violated constraint of a configuration field.

use std::fmt;
use std::ops::RangeInclusive;

/// A violated constraint: the path of the field, and what is wrong with its value.
///
/// # Examples
/// ```
/// use cnclip_crds::field_problem::FieldProblem;
///
/// let problem = FieldProblem::new("batchSize", "is 0; it must be at least 1.");
/// assert_eq!(problem.to_string(), "batchSize is 0; it must be at least 1.");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field in its configuration, such as `optimizer.beta1`.
    pub path: String,
    /// The value found and the constraint; continues a sentence that begins with the path.
    pub message: String,
}

impl FieldProblem {
    /// A problem of one field.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same problem of a field nested in `parent`.
    #[must_use]
    pub fn nested_in(self, parent: &str) -> Self {
        Self {
            path: format!("{parent}.{}", self.path),
            message: self.message,
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.message)
    }
}

/// Bounds of an integer field.
pub(crate) struct Bounds {
    pub(crate) path: &'static str,
    // Wide enough for both i32 and i64 fields, so that one table holds the rules of all.
    pub(crate) value: i64,
    pub(crate) allowed: RangeInclusive<i64>,
}

impl Bounds {
    pub(crate) fn at_least(path: &'static str, value: impl Into<i64>, minimum: i64) -> Self {
        Self::within(path, value, minimum..=i64::MAX)
    }

    pub(crate) fn within(
        path: &'static str,
        value: impl Into<i64>,
        allowed: RangeInclusive<i64>,
    ) -> Self {
        Self {
            path,
            value: value.into(),
            allowed,
        }
    }

    /// The problem of a value outside of them.
    pub(crate) fn problem(&self) -> Option<FieldProblem> {
        let Self {
            path,
            value,
            allowed,
        } = self;

        let bound = match value {
            value if value < allowed.start() => format!("at least {}", allowed.start()),
            value if value > allowed.end() => format!("at most {}", allowed.end()),
            _ => return None,
        };

        Some(FieldProblem::new(
            *path,
            format!("is {value}; it must be {bound}"),
        ))
    }
}
