//! Status of a run: conditions, progress, results, printer columns and events. Pure.

pub mod conditions;
pub mod events;
pub mod progress;
mod results;
pub mod summary;
