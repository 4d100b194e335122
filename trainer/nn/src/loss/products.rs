//! The products between features and logits, in either memory.

use cnclip_compute::device::{Operand, Product};
use cnclip_compute::gemm::{Matrix, MatrixMut, Onto, Threads, product};
use cnclip_compute::tensor::{View, ViewMut, mixed};

/// `logits = scale · rows · columnsᵀ`.
///
/// # Shapes
/// `rows` [own, width], `columns` [pairs, width], `logits` [own, pairs].
pub(super) fn compare(
    logits: ViewMut<'_>,
    (rows, columns): (View<'_>, View<'_>),
    width: usize,
    scale: f32,
) {
    let pairs = columns.len() / width;
    match (logits, rows, columns) {
        (ViewMut::Host(logits), View::Host(rows), View::Host(columns)) => {
            let sides = (
                Matrix::new(rows, width),
                Matrix::new(columns, width).transposed(),
            );

            product(
                MatrixMut::new(logits, pairs),
                Onto::Replace,
                scale,
                sides,
                Threads::All,
            );
        }
        (ViewMut::Device(logits), View::Device(rows), View::Device(columns)) => {
            let sides = (
                Operand::new(rows, width),
                Operand::new(columns, width).transposed(),
            );

            let target = Operand::new(logits.span(), pairs);
            let product = Product {
                scale,
                ..Product::new(target, sides.0, sides.1)
            };

            logits.device().multiply(&product);
        }
        _ => mixed(),
    }
}

/// From the gradients of the logits to those of the features of their rows: `scale · logits · columns`.
///
/// # Shapes
/// As in [`compare`]; `gradient` as `rows`.
pub(super) fn gather(
    gradient: ViewMut<'_>,
    logits: View<'_>,
    (columns, width): (View<'_>, usize),
    scale: f32,
) {
    let pairs = columns.len() / width;
    match (gradient, logits, columns) {
        (ViewMut::Host(gradient), View::Host(logits), View::Host(columns)) => {
            let sides = (Matrix::new(logits, pairs), Matrix::new(columns, width));
            product(
                MatrixMut::new(gradient, width),
                Onto::Replace,
                scale,
                sides,
                Threads::All,
            );
        }
        (ViewMut::Device(gradient), View::Device(logits), View::Device(columns)) => {
            let sides = (Operand::new(logits, pairs), Operand::new(columns, width));
            let target = Operand::new(gradient.span(), width);
            let product = Product {
                scale,
                ..Product::new(target, sides.0, sides.1)
            };

            gradient.device().multiply(&product);
        }
        _ => mixed(),
    }
}
