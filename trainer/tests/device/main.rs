//! The model and its training on a device against the CPU: an emulated device, or with `CNCLIP_DEVICE=cuda`
//! and the feature `cuda` a GPU. The tests of single operations are in `trainer/compute/tests/operations`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod distillation;
mod evaluation;
mod faults;
mod loss;
mod memory;
mod optimizer;
#[path = "../support/planned.rs"]
mod planned;
mod ranks;
mod residual_network;
#[path = "../support/same.rs"]
mod same;
#[path = "../support/scores.rs"]
mod scores;
#[path = "../support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;
mod support;
mod towers;
mod train;
