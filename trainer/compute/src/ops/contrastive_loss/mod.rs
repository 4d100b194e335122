//! Rows of logits: what is to know of each, and their gradients.

pub mod gpu;
