//! The operations: on the CPU against candle's autograd, and on a device against the CPU. The device is an
//! emulated one, or with `CNCLIP_DEVICE=cuda` and the feature `cuda` a GPU.
//!
//! The tests of an operation lie in its folder and are found there; here is what they share, and the tests of the
//! device itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod autograd;
mod comparison;
mod device_under_test;
mod driver;
mod emulator;
mod host_and_device;
mod tensors;
mod wide_counts;

// A module for the `tests.rs` of every folder of `src/ops`, written by the build script.
include!(concat!(env!("OUT_DIR"), "/operation_tests.rs"));
