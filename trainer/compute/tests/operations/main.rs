//! The operations: on the CPU against candle's autograd, and on a device against the CPU. The device is an
//! emulated one, or with `CNCLIP_DEVICE=cuda` and the feature `cuda` a GPU.
//!
//! The tests of an operation lie in its folder; here is what they share, and the tests of the device itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod autograd;
mod comparison;
mod device_under_test;
mod driver;
mod emulator;
mod host_and_device;
mod tensors;

#[path = "../../src/ops/activation/tests.rs"]
mod activation;
#[path = "../../src/ops/adamw/tests.rs"]
mod adamw;
#[path = "../../src/ops/attention/tests.rs"]
mod attention;
#[path = "../../src/ops/attention_pool/tests.rs"]
mod attention_pool;
#[path = "../../src/ops/average_pool/tests.rs"]
mod average_pool;
#[path = "../../src/ops/batch_norm/tests.rs"]
mod batch_norm;
#[path = "../../src/ops/conv2d/tests.rs"]
mod conv2d;
#[path = "../../src/ops/dropout/tests.rs"]
mod dropout;
#[path = "../../src/ops/ema/tests.rs"]
mod ema;
#[path = "../../src/ops/embedding/tests.rs"]
mod embedding;
#[path = "../../src/ops/l2_normalize/tests.rs"]
mod l2_normalize;
#[path = "../../src/ops/layer_norm/tests.rs"]
mod layer_norm;
#[path = "../../src/ops/linear/tests.rs"]
mod linear;
#[path = "../../src/ops/mean_pool_token/tests.rs"]
mod mean_pool_token;
#[path = "../../src/ops/patch_dropout/tests.rs"]
mod patch_dropout;
#[path = "../../src/ops/patchify/tests.rs"]
mod patchify;
#[path = "../../src/ops/position_embedding/tests.rs"]
mod position_embedding;
#[path = "../../src/ops/residual/tests.rs"]
mod residual;
#[path = "../../src/ops/sequences/tests.rs"]
mod sequences;
