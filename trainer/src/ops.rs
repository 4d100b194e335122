//! The operations of the towers: each a forward and a backward over views, without memory of
//! its own beyond what a block lends it. Weight gradients are added, input gradients are written.

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod branch;
pub mod conv2d;
pub mod dropout;
pub mod embedding;
pub mod layer_norm;
pub mod linear;
pub mod math;
pub mod matrix;
pub mod mean_token;
pub mod multiply;
pub mod normalize;
pub mod patches;
pub mod pixels;
pub mod pool;
pub mod positions;
pub mod query;
pub mod random;
pub mod ranks;
pub mod rows;
