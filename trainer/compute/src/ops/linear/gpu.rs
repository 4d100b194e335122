//! Rows times a weight matrix. Factors of a product have one format: that of the rows.

use crate::device::{DType, DeviceView, DeviceViewMut, Gemm, KernelLaunch, MatrixDesc};
use crate::gemm::Accumulate;

/// A weight as a matrix.
#[derive(Clone, Copy, Debug)]
pub struct WeightMatrix<'a> {
    weight: DeviceView<'a>,
    cols: usize,
    transposed: bool,
}

impl<'a> WeightMatrix<'a> {
    /// Rows that lie one behind the other.
    pub fn new(weight: DeviceView<'a>, cols: usize) -> Self {
        Self {
            weight,
            cols,
            transposed: false,
        }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
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

    fn matrix_desc(self, format: DType) -> MatrixDesc {
        let operand = MatrixDesc::new(weight_in_dtype(self.weight, format), self.cols);
        if self.transposed {
            operand.transposed()
        } else {
            operand
        }
    }
}

/// A weight in the format of what it is multiplied with or added to.
#[expect(
    clippy::expect_used,
    reason = "a memory of bfloat16 numbers keeps weights rounded, too"
)]
pub(in crate::ops) fn weight_in_dtype(weight: DeviceView<'_>, format: DType) -> DeviceView<'_> {
    if weight.dtype() == format {
        return weight;
    }
    weight
        .bf16_copy()
        .expect("weights are kept in both formats")
}

/// `y = x · Wᵀ + b`, or added to `y`.
///
/// # Shapes
/// `x` [rows, inputs], `weight` [outputs, inputs], `bias` [outputs], `y` [rows, outputs].
pub fn forward(
    weight: WeightMatrix<'_>,
    bias: Option<DeviceView<'_>>,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
    onto: Accumulate,
) {
    let (outputs, inputs) = weight.gemm_shape();
    let target = MatrixDesc::new(y.as_view(), outputs);
    let pair = (
        MatrixDesc::new(x, inputs),
        weight.matrix_desc(x.dtype()).transposed(),
    );

    let bias = bias.map(|bias| weight_in_dtype(bias, y.as_view().dtype()).address());
    launch_gemm(
        y,
        Gemm {
            bias,
            accumulate: onto == Accumulate::Yes,
            ..Gemm::new(target, pair.0, pair.1)
        },
    );
}

/// `dx = dy · W`, or added to `dx`.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_input(
    weight: WeightMatrix<'_>,
    dy: DeviceView<'_>,
    dx: &mut DeviceViewMut<'_>,
    onto: Accumulate,
) {
    let (outputs, inputs) = weight.gemm_shape();
    let target = MatrixDesc::new(dx.as_view(), inputs);
    let pair = (MatrixDesc::new(dy, outputs), weight.matrix_desc(dy.dtype()));
    launch_gemm(
        dx,
        Gemm {
            accumulate: onto == Accumulate::Yes,
            ..Gemm::new(target, pair.0, pair.1)
        },
    );
}

/// Adds `dyᵀ · x` to the gradient of a weight that is stored [outputs, inputs]; of one that is stored the
/// other way around, its gradient is that of exchanged `x` and `dy`.
///
/// # Shapes
/// `gradient` [outputs, inputs], `x` [rows, inputs], `dy` [rows, outputs].
pub fn backward_weight(
    gradient: &mut DeviceViewMut<'_>,
    inputs: usize,
    x: DeviceView<'_>,
    dy: DeviceView<'_>,
) {
    let outputs = gradient.len() / inputs;
    let target = MatrixDesc::new(gradient.as_view(), inputs);
    let pair = (
        MatrixDesc::new(dy, outputs).transposed(),
        MatrixDesc::new(x, inputs),
    );

    launch_gemm(
        gradient,
        Gemm {
            accumulate: true,
            ..Gemm::new(target, pair.0, pair.1)
        },
    );
}

fn launch_gemm(target: &DeviceViewMut<'_>, product: Gemm) {
    assert!(
        product.a.dtype == product.b.dtype,
        "factors of a product have one format"
    );

    target.device().gemm(&product);
}

/// Adds the sum of every column to `sums`.
///
/// # Shapes
/// `rows` [rows, width], `sums` [width].
pub fn add_column_sums(rows: DeviceView<'_>, sums: &mut DeviceViewMut<'_>) {
    let width = sums.len();
    let device = sums.device();
    let count = rows.len() / width;
    let (grid, parts) = column_sum_blocks(count, width);
    let launch = KernelLaunch::for_dtype("column_sums", rows.dtype()).with_grid(grid, parts, 1);

    launch
        .arg_input(rows)
        .arg_output(sums)
        .arg_u32(count)
        .arg_u32(width)
        .launch_on(device);
}

/// Blocks across and along so many rows whose columns are summed.
pub(in crate::ops) fn column_sum_blocks(rows: usize, width: usize) -> (usize, usize) {
    /// Columns that one block sums, and rows that it should at least be given.
    const COLUMNS: usize = 64;
    const ROWS: usize = 64;
    /// Blocks that fill a device, and parts for which its kernels have memory.
    const BLOCKS: usize = 512;
    const PARTS: usize = 64;
    let across = width.div_ceil(COLUMNS);
    let wanted = BLOCKS.div_ceil(across.max(1)).min(PARTS);

    (across, rows.div_ceil(ROWS).clamp(1, wanted))
}
