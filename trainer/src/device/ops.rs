//! The operations of the towers as a device does them: one file for each of [`crate::ops`], the same
//! function over spans instead of slices. Each says which kernels do it, and over how many threads.
//!
//! Arrays of activations of one operation have one format; weights' values, gradients and moments are
//! fp32.

pub mod activation;
pub mod attention;
pub mod average;
pub mod batch_norm;
pub mod branch;
pub mod conv2d;
pub mod distillation;
pub mod dropout;
pub mod embedding;
pub mod flash_attention;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod mean_token;
pub mod normalize;
pub mod optimizer;
pub mod patches;
pub mod pool;
pub mod positions;
pub mod query;
mod ragged;
pub mod rows;

use super::{Launch, Span, SpanMut};

/// Writes numbers in another format, and rounded beside them where they are kept so.
pub fn convert(from: Span<'_>, mut to: SpanMut<'_>) {
    let device = to.device();
    let len = to.len();
    let names =
        [from.format(), to.span().format()].map(|format| format!("{format:?}").to_lowercase());
    let launch = Launch::new(&format!("convert_{}_{}", names[0], names[1])).over(len.div_ceil(8));

    launch
        .read(from)
        .write(&mut to)
        .write_rounded(&mut to)
        .whole(len)
        .run(device);
}
