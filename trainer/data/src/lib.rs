//! From shards to batches: where samples come from, in which order, and what a tower is given.

pub mod error;
pub mod image;
pub mod json;
pub mod jsonl;
pub mod loader;
pub mod memory_limit;
pub mod order;
pub mod prepare;
pub mod readers;
mod recent_cache;
pub mod redact;
pub mod shard;
pub mod skip_budget;
pub mod split;
mod splitmix;
pub mod store;
pub mod tokenizer;

#[cfg(test)]
mod golden;
