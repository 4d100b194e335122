//! Chinese-CLIP: both towers, the contrastive loss and the optimizer, forward and backward written out over
//! flat parameters. Reads no files, and knows other ranks only as a collective.
//!
//! A training step goes through these modules:
//!
//! 1. [`accumulate`] computes the features of a global batch, micro-batch by micro-batch, with the
//!    [`model`];
//! 2. [`loss`] compares them, and [`distillation`] compares them with a teacher's;
//! 3. [`accumulate`] computes the gradients of all weights;
//! 4. [`optimizer`] updates the weights with the learning rate of the [`schedule`], and [`ema`] averages
//!    them.
//!
//! [`memory`] estimates beforehand how large a micro-batch fits.
//!
//! There is no automatic differentiation: the model is fixed, and a backward pass that is written out reuses
//! memory and hands over each gradient to the all-reduce as soon as it is complete.

pub mod accumulate;
pub mod distillation;
pub mod ema;
pub mod loss;
pub mod memory;
pub mod model;
pub mod optimizer;
pub mod schedule;
