//! Matrix products: cut into fixed tiles that the pool works off, each tile one product of `faer` on one thread.
//!
//! Tiles depend on the shape alone, and each sums over the whole inner dimension, so results do not depend on
//! the number of threads.

use std::ops::Range;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

use super::memory::{Reals, Shared};
use super::pool::Pool;
use crate::bfloat16::Bf16;

/// A matrix somewhere inside a tensor: element `(i, j)` is at `start + i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    data: Shared<'a, T>,
    start: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// A row-major matrix that fills `data`.
    pub(crate) fn new(data: Shared<'a, T>, rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols);
        Matrix { data, start: 0, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A row-major matrix inside `data`, rows `row_stride` apart.
    pub(crate) fn strided(
        data: Shared<'a, T>,
        start: usize,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        assert!(rows > 0 && cols > 0 && start + (rows - 1) * row_stride + cols <= data.len());
        Matrix { data, start, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed matrix, over the same memory.
    pub(crate) fn t(self) -> Self {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows and columns of a part.
    pub(crate) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols);
        Matrix {
            start: self.start + rows.start * self.row_stride + cols.start * self.col_stride,
            rows: rows.len(),
            cols: cols.len(),
            ..self
        }
    }

    pub(crate) fn rows_part(self, rows: Range<usize>) -> Self {
        let cols = self.cols;
        self.part(rows, 0..cols)
    }

    pub(crate) fn rows_are_contiguous(&self) -> bool {
        self.col_stride == 1
    }

    /// One row of a row-major matrix, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes the row while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the caller promises exclusive rows")]
    pub(crate) unsafe fn row_mut(&self, row: usize) -> &'a mut [T] {
        assert!(row < self.rows && self.col_stride == 1);
        let start = self.start + row * self.row_stride;
        // SAFETY: passed on to the caller.
        unsafe { self.data.write(start..start + self.cols) }
    }

    /// One row of a row-major matrix, to read.
    ///
    /// # Safety
    /// Nobody writes to the row while the slice lives.
    pub(crate) unsafe fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows && self.col_stride == 1);
        let start = self.start + row * self.row_stride;
        // SAFETY: passed on to the caller.
        unsafe { self.data.read(start..start + self.cols) }
    }

    /// A row-major matrix to read, from its first element to its last, and the distance of its rows.
    ///
    /// # Safety
    /// Nobody writes to anything in between while the slice lives.
    pub(crate) unsafe fn span(&self) -> (&'a [T], usize) {
        assert!(self.col_stride == 1);
        let len = (self.rows - 1) * self.row_stride + self.cols;
        // SAFETY: passed on to the caller.
        (unsafe { self.data.read(self.start..self.start + len) }, self.row_stride)
    }

    /// Where it begins, and the distance of its rows.
    pub(crate) fn first_and_stride(&self) -> (*mut T, usize) {
        assert!(self.col_stride == 1);
        (self.first(), self.row_stride)
    }

    /// One element.
    ///
    /// # Safety
    /// Nobody writes to it during the call.
    pub(crate) unsafe fn element(&self, row: usize, col: usize) -> T {
        assert!(row < self.rows && col < self.cols);
        let at = self.start + row * self.row_stride + col * self.col_stride;
        // SAFETY: passed on to the caller.
        unsafe { self.data.read(at..at + 1)[0] }
    }

    fn first(&self) -> *mut T {
        let last = self.start + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
        assert!(last < self.data.len());
        // SAFETY: inside the tensor, as just checked.
        unsafe { self.data.ptr().add(self.start) }
    }
}

/// A matrix of either type: an operand of a product, or its result.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    F32(Matrix<'a>),
    Bf16(Matrix<'a, Bf16>),
}

impl<'a> Operand<'a> {
    /// A row-major matrix that fills `data`.
    pub(crate) fn of(data: Reals<'a>, rows: usize, cols: usize) -> Self {
        match data {
            Reals::F32(data) => Operand::F32(Matrix::new(data, rows, cols)),
            Reals::Bf16(data) => Operand::Bf16(Matrix::new(data, rows, cols)),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Operand::F32(matrix) => matrix.rows,
            Operand::Bf16(matrix) => matrix.rows,
        }
    }

    pub(crate) fn cols(&self) -> usize {
        match self {
            Operand::F32(matrix) => matrix.cols,
            Operand::Bf16(matrix) => matrix.cols,
        }
    }

    /// The transposed matrix, over the same memory.
    pub(crate) fn t(self) -> Self {
        match self {
            Operand::F32(matrix) => Operand::F32(matrix.t()),
            Operand::Bf16(matrix) => Operand::Bf16(matrix.t()),
        }
    }

    /// Rows and columns of a part.
    pub(crate) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        match self {
            Operand::F32(matrix) => Operand::F32(matrix.part(rows, cols)),
            Operand::Bf16(matrix) => Operand::Bf16(matrix.part(rows, cols)),
        }
    }

    pub(crate) fn rows_part(self, rows: Range<usize>) -> Self {
        let cols = self.cols();
        self.part(rows, 0..cols)
    }

    /// The matrix of an operator that has no other.
    pub(crate) fn f32(self) -> Matrix<'a> {
        match self {
            Operand::F32(matrix) => matrix,
            Operand::Bf16(_) => unreachable!("the plan stores it in float32"),
        }
    }
}

/// `c = scale * a b`, or `c += scale * a b` if `accumulate`, on this thread.
///
/// # Safety
/// Nobody else touches `c`, and nobody writes to `a` or `b`, during the call; `c` overlaps neither.
pub(crate) unsafe fn product(c: Matrix, a: Matrix, b: Matrix, scale: f32, accumulate: bool) {
    assert!(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows, "product of unlike shapes");
    // SAFETY: `first` checks that the strided extent lies inside the tensor; the caller excludes conflicts.
    let (c, a, b) = unsafe {
        (
            MatMut::from_raw_parts_mut(
                c.first(),
                c.rows,
                c.cols,
                c.row_stride as isize,
                c.col_stride as isize,
            ),
            MatRef::from_raw_parts(a.first(), a.rows, a.cols, a.row_stride as isize, a.col_stride as isize),
            MatRef::from_raw_parts(b.first(), b.rows, b.cols, b.row_stride as isize, b.col_stride as isize),
        )
    };
    matmul(c, if accumulate { Accum::Add } else { Accum::Replace }, a, b, scale, Par::Seq);
}

/// Where a tile of the result lies.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
}

/// `c = a b`, plus `bias` on every row if there is one; or `c += a b` if `accumulate`, then without a bias.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) c: Operand<'a>,
    pub(crate) a: Operand<'a>,
    pub(crate) b: Operand<'a>,
    pub(crate) accumulate: bool,
    pub(crate) bias: Option<&'a [f32]>,
}

/// A product in float32 over the pool; `after` sees each tile on the thread that computes it, while it is in that core's
/// cache.
///
/// # Safety
/// Nobody else touches `c`, and nobody writes to `a` or `b`, during the call; `c` overlaps neither. `after` touches, of
/// what other tiles write, only its own tile.
pub(crate) unsafe fn parallel_product(pool: &mut Pool, of: &Product, after: impl Fn(&Tile) + Sync) {
    let Product { accumulate, bias, .. } = *of;
    let (c, a, b) = (of.c.f32(), of.a.f32(), of.b.f32());
    let (tile_rows, tile_cols) = tile_shape(c.rows, c.cols, a.cols);
    let (n_rows, n_cols) = (c.rows.div_ceil(tile_rows), c.cols.div_ceil(tile_cols));
    pool.run(n_rows * n_cols, |index, _| {
        // Neighbours in time share the columns of `b`, the larger operand as a rule.
        let (row, col) = (index % n_rows * tile_rows, index / n_rows * tile_cols);
        let tile =
            Tile { rows: row..(row + tile_rows).min(c.rows), cols: col..(col + tile_cols).min(c.cols) };
        let c = c.part(tile.rows.clone(), tile.cols.clone());
        let (a, b) = (a.rows_part(tile.rows.clone()), b.part(0..b.rows, tile.cols.clone()));
        // SAFETY: tiles are disjoint; the rest is the caller's promise.
        unsafe {
            if let Some(bias) = bias {
                (0..c.rows).for_each(|row| c.row_mut(row).copy_from_slice(&bias[tile.cols.clone()]));
            }
            product(c, a, b, 1.0, accumulate || bias.is_some());
        }
        after(&tile);
    });
}

/// Rows and columns of a tile: as large as 256 x 1024, then halved until there are 16 tiles or a tile would be
/// too small to be worth a task (2 MFLOP, some 10 microseconds).
fn tile_shape(m: usize, n: usize, k: usize) -> (usize, usize) {
    let (mut rows, mut cols) = (m.min(256), n.min(1024));
    while m.div_ceil(rows) * n.div_ceil(cols) < 16 && rows * cols * k > 1 << 20 {
        if rows >= cols && rows > 32 {
            rows = rows.div_ceil(2).next_multiple_of(16);
        } else if cols > 32 {
            cols = cols.div_ceil(2).next_multiple_of(16);
        } else {
            break;
        }
    }
    (rows, cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_and_are_neither_too_few_nor_too_small() {
        assert_eq!(tile_shape(4096, 768, 768), (256, 768));
        assert_eq!(tile_shape(1, 65, 3), (1, 65));
        let (rows, cols) = tile_shape(768, 128, 128);
        assert!(768usize.div_ceil(rows) * 128usize.div_ceil(cols) >= 8, "{rows} x {cols}");
    }

    #[test]
    fn products_of_parts_and_transposes() {
        let mut a: Vec<f32> = (0..35).map(|i| i as f32).collect();
        let mut b: Vec<f32> = (0..21).map(|i| (i as f32).sin()).collect();
        let mut c = vec![1.0f32; 5 * 3];
        let (a_mat, b_mat) =
            (Matrix::new(Shared::of(&mut a), 5, 7), Matrix::new(Shared::of(&mut b), 3, 7).t());
        // SAFETY: three separate vectors.
        unsafe { product(Matrix::new(Shared::of(&mut c), 5, 3), a_mat, b_mat, 2.0, true) };
        for i in 0..5 {
            for j in 0..3 {
                let dot: f32 = (0..7).map(|k| a[i * 7 + k] * b[j * 7 + k]).sum();
                assert!((c[i * 3 + j] - (1.0 + 2.0 * dot)).abs() < 1e-4);
            }
        }
    }
}
