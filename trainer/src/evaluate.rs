//! Scores: what a model is worth on a data set.

pub mod retrieval;
pub mod search;
