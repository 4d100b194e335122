//! The products between features and logits, in either memory.

use cnclip_compute::device::{Gemm, MatrixDesc};
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use cnclip_compute::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// `logits = scale · rows · columnsᵀ`.
///
/// # Shapes
/// `rows` [own, width], `columns` [pairs, width], `logits` [own, pairs].
pub(super) fn compute_logits(
    logits: TensorViewMut<'_>,
    (rows, columns): (TensorView<'_>, TensorView<'_>),
    width: usize,
    scale: f32,
) {
    let pairs = columns.len() / width;
    match (logits, rows, columns) {
        (TensorViewMut::Host(logits), TensorView::Host(rows), TensorView::Host(columns)) => {
            let sides = (
                MatrixView::new(rows, width),
                MatrixView::new(columns, width).transposed(),
            );

            gemm_f32(
                MatrixViewMut::new(logits, pairs),
                Accumulate::No,
                scale,
                sides,
                GemmThreads::All,
            );
        }
        (TensorViewMut::Device(logits), TensorView::Device(rows), TensorView::Device(columns)) => {
            let sides = (
                MatrixDesc::new(rows, width),
                MatrixDesc::new(columns, width).transposed(),
            );

            let target = MatrixDesc::new(logits.as_view(), pairs);
            let product = Gemm {
                alpha: scale,
                ..Gemm::new(target, sides.0, sides.1)
            };

            logits.device().gemm(&product);
        }
        _ => panic_mixed_memories(),
    }
}

/// From the gradients of the logits to those of the features of their rows: `scale · logits · columns`.
///
/// # Shapes
/// As in [`compare`]; `gradient` as `rows`.
pub(super) fn compute_feature_gradients(
    gradient: TensorViewMut<'_>,
    logits: TensorView<'_>,
    (columns, width): (TensorView<'_>, usize),
    scale: f32,
) {
    let pairs = columns.len() / width;
    match (gradient, logits, columns) {
        (TensorViewMut::Host(gradient), TensorView::Host(logits), TensorView::Host(columns)) => {
            let sides = (
                MatrixView::new(logits, pairs),
                MatrixView::new(columns, width),
            );
            gemm_f32(
                MatrixViewMut::new(gradient, width),
                Accumulate::No,
                scale,
                sides,
                GemmThreads::All,
            );
        }
        (
            TensorViewMut::Device(gradient),
            TensorView::Device(logits),
            TensorView::Device(columns),
        ) => {
            let sides = (
                MatrixDesc::new(logits, pairs),
                MatrixDesc::new(columns, width),
            );
            let target = MatrixDesc::new(gradient.as_view(), width);
            let product = Gemm {
                alpha: scale,
                ..Gemm::new(target, sides.0, sides.1)
            };

            gradient.device().gemm(&product);
        }
        _ => panic_mixed_memories(),
    }
}
