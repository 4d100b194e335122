//! What a page shows of a classification. Scores nothing anew.

use serde::Serialize;

use crate::evaluate::zero_shot::Scored;

/// The classes of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Classes {
    /// Their names.
    pub names: Vec<String>,
}

impl Classes {
    /// Those of a classification.
    pub fn of(scored: &Scored) -> Self {
        Self { names: scored.classes.clone() }
    }
}
