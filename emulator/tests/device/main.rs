//! Every operation of a device against the same operation of this machine, on an emulated card, or with
//! `CNCLIP_DEVICE=cuda` and the feature `cuda` on a real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod emulator;
mod flash_attention;
mod support;
mod whole;
