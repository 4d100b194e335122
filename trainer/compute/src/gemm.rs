//! Matrix products over strided views on the CPU: the only caller of the gemm library, and its bounds checks.
//!
//! ```
//! use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
//!
//! let a = [1.0, 2.0, 3.0, 4.0];
//! let mut c = [0.0; 4];
//! gemm_f32(
//!     MatrixViewMut::new(&mut c, 2),
//!     Accumulate::No,
//!     1.0,
//!     MatrixView::new(&a, 2),
//!     MatrixView::new(&a, 2).transposed(),
//!     GemmThreads::One,
//! );
//! assert_eq!(c, [5.0, 11.0, 11.0, 25.0]);
//! ```

pub mod matmul;

use gemm::Parallelism;

/// A matrix in a slice: element (r, c) lies at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// A view of `rows` × `cols` whose rows lie `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        // The gemm library reads through raw pointers: this is the only check of its bounds.
        assert!(
            required_len(rows, cols, row_stride) <= data.len(),
            "the view leaves its slice"
        );

        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// A view of contiguous rows.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        Self::strided(data, data.len() / cols, cols, cols)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The first `rows` rows.
    pub fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "the matrix has fewer rows");
        Self { rows, ..self }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// The same matrix packed into other memory without gaps, each line written by `copy(target, source)`.
    pub(super) fn pack_into(
        self,
        memory: &mut [f32],
        copy: impl Fn(&mut [f32], &[f32]),
    ) -> MatrixView<'_> {
        // A line is contiguous in the source: a row, or a column of a transposed view.
        let transposed = self.col_stride != 1;
        let view = if transposed { self.transposed() } else { self };

        for (line, target) in memory
            // Chunks of 0 would panic, and a matrix without columns is allowed.
            .chunks_exact_mut(view.cols.max(1))
            .take(view.rows)
            .enumerate()
        {
            let start = line * view.row_stride;
            copy(target, &view.data[start..start + view.cols]);
        }

        let packed = MatrixView::strided(memory, view.rows, view.cols, view.cols);
        if transposed {
            packed.transposed()
        } else {
            packed
        }
    }

    /// Rows and columns exchanged; no number is moved.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A matrix in a slice that a product is written to, with contiguous columns.
#[derive(Debug)]
pub struct MatrixViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatrixViewMut<'a> {
    /// A view of `rows` × `cols` whose rows lie `row_stride` apart.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            required_len(rows, cols, row_stride) <= data.len(),
            "the view leaves its slice"
        );

        // Threads share out the rows of the target: overlapping ones would be a data race.
        assert!(
            rows <= 1 || cols <= row_stride,
            "rows of the target overlap"
        );

        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A view of contiguous rows.
    pub fn new(data: &'a mut [f32], cols: usize) -> Self {
        let rows = data.len() / cols;
        Self::strided(data, rows, cols, cols)
    }
}

/// One more than the index of the last element: the length that a slice needs.
fn required_len(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + cols
    }
}

/// Whether a result replaces what its target holds: BLAS's `beta` of 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accumulate {
    /// It is written.
    No,
    /// It is added.
    Yes,
}

/// Which threads compute a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GemmThreads {
    /// The calling one: the caller already runs many products in parallel.
    One,
    /// All of the pool.
    All,
}

/// `target = scale · a · b`, or added to the target.
///
/// # Panics
/// If the shapes of the matrices do not match.
pub fn gemm_f32(
    target: MatrixViewMut<'_>,
    accumulate: Accumulate,
    scale: f32,
    a: MatrixView<'_>,
    b: MatrixView<'_>,
    threads: GemmThreads,
) {
    let rows = target.rows;
    let cols = target.cols;
    let inner = a.cols;
    assert!(
        a.rows == rows && b.cols == cols && b.rows == inner,
        "the shapes of a matrix product do not match"
    );

    let keep = accumulate == Accumulate::Yes;
    // `Rayon(0)` uses all threads of the pool; a pool of one would only cost the scheduling.
    let parallelism = match threads {
        GemmThreads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };

    // SAFETY: the constructors checked that every element of the three views lies in its slice, and
    // that rows of the target do not overlap; the target is borrowed mutably, so it aliases neither
    // source; the shapes were checked to match just above.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            target.data.as_mut_ptr(),
            // Strides are given as (column, row) throughout.
            1,
            target.row_stride as isize,
            keep,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            // The factor of the old target comes first, then that of the product: unlike in BLAS.
            if keep { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{derive_key, uniform_f32};

    fn numbers(length: usize, seed: u64) -> Vec<f32> {
        (0..length as u64)
            .map(|i| uniform_f32(derive_key(seed, i)) - 0.5)
            .collect()
    }

    #[test]
    fn a_product_of_strided_and_transposed_views_is_the_sum_over_the_inner_index() {
        let m = 7;
        let n = 11;
        let k = 13;
        let lead = 17;
        let a = numbers(k * lead, 1);
        let b = numbers(n * lead, 2);

        for threads in [GemmThreads::One, GemmThreads::All] {
            let mut c = numbers(m * lead, 3);
            let before = c.clone();
            let left = MatrixView::strided(&a, k, m, lead).transposed();
            let right = MatrixView::strided(&b, n, k, lead).transposed();
            let target = MatrixViewMut::strided(&mut c, m, n, lead);

            gemm_f32(target, Accumulate::Yes, 0.5, left, right, threads);
            for (at, (found, old)) in c.iter().zip(&before).enumerate() {
                let i = at / lead;
                let j = at % lead;
                let inner = (0..k).map(|x| a[x * lead + i] * b.get(j * lead + x).unwrap_or(&0.0));
                let right = if j < n {
                    old + 0.5 * inner.sum::<f32>()
                } else {
                    *old
                };

                assert!(
                    (found - right).abs() < 1e-6,
                    "({i}, {j}): {found} for {right}"
                );
            }
        }
    }

    #[test]
    fn a_view_that_leaves_its_slice_is_refused() {
        let refused = |f: fn()| assert!(std::panic::catch_unwind(f).is_err());
        refused(|| assert!(MatrixView::strided(&[0.0; 11], 2, 3, 9).rows() > 0));
        refused(|| assert!(MatrixViewMut::strided(&mut [0.0; 11], 2, 3, 9).rows() > 0));
        refused(|| assert!(MatrixViewMut::strided(&mut [0.0; 12], 3, 4, 3).rows() > 0));
        refused(|| {
            let a = [0.0; 6];
            let b = [0.0; 8];
            let mut c = [0.0; 8];
            gemm_f32(
                MatrixViewMut::new(&mut c, 4),
                Accumulate::No,
                1.0,
                MatrixView::new(&a, 3),
                MatrixView::new(&b, 4),
                GemmThreads::One,
            );
        });
    }
}
