//! The description of a matrix product on a device.

use super::{DType, DeviceAddress, DeviceView};

/// A matrix in row-major order, or several of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixDesc {
    /// The address of the first number of the first matrix.
    pub address: DeviceAddress,
    /// Number format.
    pub dtype: DType,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Numbers from one row to the next.
    pub row_stride: usize,
    /// Numbers from one matrix to the next.
    pub batch_stride: usize,
    /// Whether it is multiplied transposed.
    pub transposed: bool,
}

impl MatrixDesc {
    /// Rows that lie `row_stride` apart, the first at the beginning of the view.
    pub fn strided(span: DeviceView<'_>, rows: usize, cols: usize, row_stride: usize) -> Self {
        // The last row ends with its last column: a view may end before the next row would begin.
        let end = if rows * cols == 0 {
            0
        } else {
            (rows - 1) * row_stride + cols
        };

        assert!(end <= span.len(), "the matrix exceeds its view");
        Self {
            address: span.address(),
            dtype: span.dtype(),
            rows,
            cols,
            row_stride,
            batch_stride: 0,
            transposed: false,
        }
    }

    /// Contiguous rows.
    pub fn new(span: DeviceView<'_>, cols: usize) -> Self {
        Self::strided(span, span.len() / cols, cols, cols)
    }

    /// Several matrices, `batch_stride` numbers apart.
    pub fn with_batch_stride(self, batch_stride: usize) -> Self {
        Self {
            batch_stride,
            ..self
        }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// `target = alpha · a · b + bias`, or added to the target, for each matrix of a batch. Sums are in fp32 in any
/// number format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// The first factor.
    pub a: MatrixDesc,
    /// The second.
    pub b: MatrixDesc,
    /// The result; never transposed.
    pub target: MatrixDesc,
    /// The factor of the product.
    pub alpha: f32,
    /// Whether the product is added to the target.
    pub accumulate: bool,
    /// Added to every row of the target; in the target's format, as long as a row.
    pub bias: Option<DeviceAddress>,
    /// Number of products.
    pub batch: usize,
}

impl Gemm {
    /// One product that replaces its target.
    pub fn new(target: MatrixDesc, a: MatrixDesc, b: MatrixDesc) -> Self {
        let side = |m: MatrixDesc| {
            if m.transposed {
                (m.cols, m.rows)
            } else {
                (m.rows, m.cols)
            }
        };

        // Checked here for all drivers, which know addresses only: a kernel checks no bounds.
        let (rows, inner) = side(a);
        let (depth, cols) = side(b);
        assert!(
            inner == depth && (rows, cols) == side(target),
            "the shapes of a matrix product do not match"
        );

        Self {
            a,
            b,
            target,
            alpha: 1.0,
            accumulate: false,
            bias: None,
            batch: 1,
        }
    }
}
