//! The linear layer on a device. Both factors of a product have the number format of the rows.

use crate::device::{DType, DeviceView, DeviceViewMut, Gemm, KernelLaunch, MatrixDesc};
use crate::gemm::Accumulate;

/// A weight as a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightMatrix<'a> {
    weight: DeviceView<'a>,
    cols: usize,
    transposed: bool,
}

impl<'a> WeightMatrix<'a> {
    /// Rows that lie one behind the other.
    pub(super) fn new(weight: DeviceView<'a>, cols: usize) -> Self {
        Self {
            weight,
            cols,
            transposed: false,
        }
    }

    /// Rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Rows and columns as they are multiplied.
    fn gemm_shape(self) -> (usize, usize) {
        let rows = self.weight.len() / self.cols;
        if self.transposed {
            (self.cols, rows)
        } else {
            (rows, self.cols)
        }
    }

    fn matrix_desc(self, dtype: DType) -> MatrixDesc {
        let operand = MatrixDesc::new(weight_in_dtype(self.weight, dtype), self.cols);
        if self.transposed {
            operand.transposed()
        } else {
            operand
        }
    }
}

/// A weight in the number format of what it is multiplied with or added to.
#[expect(
    clippy::expect_used,
    reason = "`Memory::alloc_weights` makes the copy wherever activations are bfloat16"
)]
pub(in crate::ops) fn weight_in_dtype(weight: DeviceView<'_>, dtype: DType) -> DeviceView<'_> {
    if weight.dtype() == dtype {
        return weight;
    }
    weight.bf16_copy().expect("a weight has a bfloat16 copy")
}

/// `y = x · Wᵀ + b`, or added to `y`.
///
/// # Shapes
/// `x` `[rows, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`, `y` `[rows, outputs]`.
pub(super) fn forward(
    weight: WeightMatrix<'_>,
    bias: Option<DeviceView<'_>>,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
    accumulate: Accumulate,
) {
    let (outputs, inputs) = weight.gemm_shape();
    let target = MatrixDesc::new(y.as_view(), outputs);
    let a = MatrixDesc::new(x, inputs);
    let b = weight.matrix_desc(x.dtype()).transposed();
    // cublasLt's epilogue reads the bias in the format of the target.
    let bias = bias.map(|bias| weight_in_dtype(bias, y.as_view().dtype()).address());
    let product = Gemm {
        bias,
        accumulate: accumulate == Accumulate::Yes,
        ..Gemm::new(target, a, b)
    };

    launch_gemm(y, product);
}

/// `dx = dy · W`, or added to `dx`.
///
/// # Shapes
/// As in [`forward`].
pub(super) fn backward_input(
    weight: WeightMatrix<'_>,
    dy: DeviceView<'_>,
    dx: &mut DeviceViewMut<'_>,
    accumulate: Accumulate,
) {
    let (outputs, inputs) = weight.gemm_shape();
    let target = MatrixDesc::new(dx.as_view(), inputs);
    let a = MatrixDesc::new(dy, outputs);
    let b = weight.matrix_desc(dy.dtype());
    let product = Gemm {
        accumulate: accumulate == Accumulate::Yes,
        ..Gemm::new(target, a, b)
    };

    launch_gemm(dx, product);
}

/// Adds `dyᵀ · x` to the gradient of a weight that is stored `[outputs, inputs]`; for a weight that is stored
/// `[inputs, outputs]`, `x` and `dy` are exchanged.
///
/// # Shapes
/// `gradient` `[outputs, inputs]`, `x` `[rows, inputs]`, `dy` `[rows, outputs]`.
pub(super) fn backward_weight(
    gradient: &mut DeviceViewMut<'_>,
    inputs: usize,
    x: DeviceView<'_>,
    dy: DeviceView<'_>,
) {
    let outputs = gradient.len() / inputs;
    let target = MatrixDesc::new(gradient.as_view(), inputs);
    let a = MatrixDesc::new(dy, outputs).transposed();
    let b = MatrixDesc::new(x, inputs);
    let product = Gemm {
        accumulate: true,
        ..Gemm::new(target, a, b)
    };

    launch_gemm(gradient, product);
}

fn launch_gemm(target: &DeviceViewMut<'_>, product: Gemm) {
    assert!(
        product.a.dtype == product.b.dtype,
        "the factors of a product have different number formats"
    );

    target.device().gemm(&product);
}

/// Adds the sum of every column to `sums`.
///
/// # Shapes
/// `rows` `[rows, width]`, `sums` `[width]`.
pub(super) fn add_column_sums(rows: DeviceView<'_>, sums: &mut DeviceViewMut<'_>) {
    let width = sums.len();
    let device = sums.device();
    let count = rows.len() / width;
    let (column_blocks, row_parts) = column_sum_blocks(count, width);

    KernelLaunch::for_dtype("column_sums", rows.dtype())
        .with_grid(column_blocks, row_parts, 1)
        .arg_input(rows)
        .arg_output(sums)
        .arg_u32(count)
        .arg_u32(width)
        .launch_on(device);
}

/// The grid of a kernel that sums columns: blocks of columns, and parts that the rows are split into.
///
/// It depends on the shape alone, so that sums are added in the same order on every device.
pub(in crate::ops) fn column_sum_blocks(rows: usize, width: usize) -> (usize, usize) {
    /// Columns that one block sums: `COLUMNS` of `kernels/columns.cuh`.
    const COLUMNS: usize = 64;
    /// Rows below which a block is not worth its launch.
    const MIN_ROWS: usize = 64;
    /// Blocks that keep a device busy.
    const TARGET_BLOCKS: usize = 512;
    /// Parts for whose sums `kernels/columns.cuh` has memory.
    const MAX_PARTS: usize = 64;

    let column_blocks = width.div_ceil(COLUMNS);
    let max_parts = TARGET_BLOCKS.div_ceil(column_blocks.max(1)).min(MAX_PARTS);
    let row_parts = rows.div_ceil(MIN_ROWS).clamp(1, max_parts);
    (column_blocks, row_parts)
}
