//! The operations of the towers: each a forward and a backward over views, without memory of
//! its own beyond what a block lends it. Weight gradients are added, input gradients are written.

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
pub mod flash_attention;
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
