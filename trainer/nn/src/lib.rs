//! Chinese-CLIP: both towers, the contrastive loss and the optimizer, forward and backward written out over
//! flat parameters. Reads no files and knows no network but a communicator.

pub mod accumulate;
pub mod distillation;
pub mod ema;
pub mod loss;
pub mod memory;
pub mod model;
pub mod optimizer;
pub mod schedule;
