//! Multi-head self-attention in bfloat16 that never holds its probabilities: it keeps one number for each
//! query and head, and makes the scores again in the backward. For heads of the published models' widths.
//!
//! # Source
//! Dao, FlashAttention-2 (2023).

pub mod gpu;
