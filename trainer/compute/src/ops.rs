//! The operations of the towers: each a forward and a backward over views, without memory of its own beyond
//! a workspace that the caller lends. Gradients of weights are added, gradients of inputs are written.
//!
//! # Adding an operation
//! A folder with `mod.rs` (the contract: documented functions with shapes, and the dispatch between CPU and
//! device), `cpu.rs`, `gpu.rs` (launches), `kernel.cu` and `tests.rs`, and a line here. Build scripts find
//! the kernel and the tests, which run on the CPU and on a device.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod attention_pool;
pub mod average_pool;
pub mod batch_norm;
pub mod contrastive_loss;
pub mod conv2d;
pub mod distillation;
pub mod dropout;
pub mod ema;
pub mod embedding;
pub mod l2_normalize;
mod launch_arguments;
pub mod layer_norm;
pub mod linear;
pub mod mean_pool_token;
pub mod patch_dropout;
pub mod patchify;
pub mod position_embedding;
pub mod residual;
pub mod sequences;
