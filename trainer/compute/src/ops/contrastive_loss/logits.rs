//! The matrix products between features and logits, in host memory or on a device.

use crate::device::{Gemm, MatrixDesc};
use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// `logits = scale · rows · columnsᵀ`.
///
/// # Shapes
/// `rows` `[local batch, width]`, `columns` `[global batch, width]`, `logits` `[local batch, global batch]`.
pub fn compute_logits(
    logits: TensorViewMut<'_>,
    rows: TensorView<'_>,
    columns: TensorView<'_>,
    width: usize,
    scale: f32,
) {
    // The scale is the alpha of the product, so it costs no pass over the logits.
    let global_batch = columns.len() / width;
    match (logits, rows, columns) {
        (TensorViewMut::Host(logits), TensorView::Host(rows), TensorView::Host(columns)) => {
            gemm_f32(
                MatrixViewMut::new(logits, global_batch),
                Accumulate::No,
                scale,
                MatrixView::new(rows, width),
                MatrixView::new(columns, width).transposed(),
                GemmThreads::All,
            );
        }
        (TensorViewMut::Device(logits), TensorView::Device(rows), TensorView::Device(columns)) => {
            let operands = (
                MatrixDesc::new(rows, width),
                MatrixDesc::new(columns, width).transposed(),
            );

            let target = MatrixDesc::new(logits.as_view(), global_batch);
            let gemm = Gemm {
                alpha: scale,
                ..Gemm::new(target, operands.0, operands.1)
            };

            logits.device().gemm(&gemm);
        }
        _ => panic_mixed_memories(),
    }
}

/// From the gradients of the logits to those of the features of their rows: `scale · logits · columns`.
///
/// # Shapes
/// As in [`compute_logits`]; `gradient` as `rows`.
pub fn compute_feature_gradients(
    gradient: TensorViewMut<'_>,
    logits: TensorView<'_>,
    columns: TensorView<'_>,
    width: usize,
    scale: f32,
) {
    let global_batch = columns.len() / width;
    match (gradient, logits, columns) {
        (TensorViewMut::Host(gradient), TensorView::Host(logits), TensorView::Host(columns)) => {
            gemm_f32(
                MatrixViewMut::new(gradient, width),
                Accumulate::No,
                scale,
                MatrixView::new(logits, global_batch),
                MatrixView::new(columns, width),
                GemmThreads::All,
            );
        }
        (
            TensorViewMut::Device(gradient),
            TensorView::Device(logits),
            TensorView::Device(columns),
        ) => {
            let operands = (
                MatrixDesc::new(logits, global_batch),
                MatrixDesc::new(columns, width),
            );
            let target = MatrixDesc::new(gradient.as_view(), width);
            let gemm = Gemm {
                alpha: scale,
                ..Gemm::new(target, operands.0, operands.1)
            };

            gradient.device().gemm(&gemm);
        }
        _ => panic_mixed_memories(),
    }
}
