//! Every operation of a device against the same operation of this machine, on an emulated card, or with
//! `CNCLIP_DEVICE=cuda` and the feature `cuda` on a real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod both;
mod distillation;
mod driver;
mod emulator;
mod evaluation;
mod faults;
mod flash_attention;
mod layers;
mod loss;
mod memory;
mod optimizer;
mod picture;
mod pictures;
#[path = "../support/planned.rs"]
mod planned;
mod ranks;
mod residual_network;
#[path = "../support/same.rs"]
mod same;
#[path = "../support/scores.rs"]
mod scores;
mod sequences;
#[path = "../support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;
mod support;
mod towers;
mod train;
mod whole;
