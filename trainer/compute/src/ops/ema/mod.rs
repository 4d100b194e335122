//! A running average of the weights.

pub mod gpu;
