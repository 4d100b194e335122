//! Rows times a weight matrix. Factors of a product have one format: that of the rows.

use crate::device::{Format, Launch, Operand, Product, Span, SpanMut};
use crate::gemm::Onto;

/// A weight as a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    weight: Span<'a>,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows that lie one behind the other.
    pub fn new(weight: Span<'a>, cols: usize) -> Self {
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
    fn shape(self) -> (usize, usize) {
        let rows = self.weight.len() / self.cols;
        if self.transposed {
            (self.cols, rows)
        } else {
            (rows, self.cols)
        }
    }

    fn operand(self, format: Format) -> Operand {
        let operand = Operand::new(in_format(self.weight, format), self.cols);
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
pub(in crate::ops) fn in_format(weight: Span<'_>, format: Format) -> Span<'_> {
    if weight.format() == format {
        return weight;
    }
    weight.rounded().expect("weights are kept in both formats")
}

/// `y = x · Wᵀ + b`, or added to `y`.
///
/// # Shapes
/// `x` [rows, inputs], `weight` [outputs, inputs], `bias` [outputs], `y` [rows, outputs].
pub fn forward(
    weight: Matrix<'_>,
    bias: Option<Span<'_>>,
    x: Span<'_>,
    y: &mut SpanMut<'_>,
    onto: Onto,
) {
    let (outputs, inputs) = weight.shape();
    let target = Operand::new(y.span(), outputs);
    let pair = (
        Operand::new(x, inputs),
        weight.operand(x.format()).transposed(),
    );

    let bias = bias.map(|bias| in_format(bias, y.span().format()).address());
    multiply(
        y,
        Product {
            bias,
            add: onto == Onto::Add,
            ..Product::new(target, pair.0, pair.1)
        },
    );
}

/// `dx = dy · W`, or added to `dx`.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_input(weight: Matrix<'_>, dy: Span<'_>, dx: &mut SpanMut<'_>, onto: Onto) {
    let (outputs, inputs) = weight.shape();
    let target = Operand::new(dx.span(), inputs);
    let pair = (Operand::new(dy, outputs), weight.operand(dy.format()));
    multiply(
        dx,
        Product {
            add: onto == Onto::Add,
            ..Product::new(target, pair.0, pair.1)
        },
    );
}

/// Adds `dyᵀ · x` to the gradient of a weight that is stored [outputs, inputs]; of one that is stored the
/// other way around, its gradient is that of exchanged `x` and `dy`.
///
/// # Shapes
/// `gradient` [outputs, inputs], `x` [rows, inputs], `dy` [rows, outputs].
pub fn backward_weight(gradient: &mut SpanMut<'_>, inputs: usize, x: Span<'_>, dy: Span<'_>) {
    let outputs = gradient.len() / inputs;
    let target = Operand::new(gradient.span(), inputs);
    let pair = (
        Operand::new(dy, outputs).transposed(),
        Operand::new(x, inputs),
    );

    multiply(
        gradient,
        Product {
            add: true,
            ..Product::new(target, pair.0, pair.1)
        },
    );
}

fn multiply(target: &SpanMut<'_>, product: Product) {
    assert!(
        product.a.format == product.b.format,
        "factors of a product have one format"
    );

    target.device().multiply(&product);
}

/// Adds the sum of every column to `sums`.
///
/// # Shapes
/// `rows` [rows, width], `sums` [width].
pub fn add_column_sums(rows: Span<'_>, sums: &mut SpanMut<'_>) {
    let width = sums.len();
    let device = sums.device();
    let count = rows.len() / width;
    let (grid, parts) = columns(count, width);
    let launch = Launch::typed("column_sums", rows.format()).grid(grid, parts, 1);

    launch
        .read(rows)
        .write(sums)
        .whole(count)
        .whole(width)
        .run(device);
}

/// Blocks across and along so many rows whose columns are summed.
pub(in crate::ops) fn columns(rows: usize, width: usize) -> (usize, usize) {
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
