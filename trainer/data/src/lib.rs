//! From shards to batches: where samples come from, in which order, and what a tower is given.

pub mod augment;
pub mod decode;
pub mod error;
pub mod jsonl;
pub mod loader;
pub mod order;
pub mod prepare;
pub mod preprocess;
pub mod resize;
pub mod shard;
pub mod split;
pub mod store;
pub mod tokenizer;

#[cfg(test)]
mod golden;
