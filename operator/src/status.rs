//! What people and programs read of a run: conditions, progress, results, columns, events. Pure, each file one
//! of them.

pub mod conditions;
pub mod events;
pub mod progress;
mod results;
pub mod summary;
