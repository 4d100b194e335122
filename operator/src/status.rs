//! What people and programs read of a run: conditions, progress, columns, events. Pure, each file one
//! of them.

pub mod conditions;
pub mod notices;
pub mod progress;
pub mod summary;
