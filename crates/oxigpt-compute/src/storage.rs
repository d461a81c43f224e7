//! How matrices are kept that a plan reads and never writes: what becomes of their elements, and the room they take.
//!
//! Decoding reads every weight for every token, so its speed is that of the memory: half the bytes, twice the tokens.

use crate::Precision;

/// Outputs of a matrix whose room is counted together: backends may lay them out side by side.
pub(crate) const PANEL: usize = 32;

/// How a stored matrix keeps its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As they are.
    Float32,
    /// Rounded to the nearest bfloat16, ties to even.
    Bfloat16,
    /// As integers from -127 to 127, of which 127 is the largest magnitude in a row of the matrix.
    Int8,
}

impl Storage {
    /// Elements of a row that take four bytes.
    pub(crate) fn group(self) -> usize {
        match self {
            Storage::Float32 => 1,
            Storage::Bfloat16 => 2,
            Storage::Int8 => 4,
        }
    }

    /// Bytes of a matrix: whole panels, and a float32 a row where rows are scaled.
    pub(crate) fn bytes(self, rows: usize, width: usize) -> usize {
        let scales = if self == Storage::Int8 { rows } else { 0 };
        4 * (rows.next_multiple_of(PANEL) * width.div_ceil(self.group()) + scales)
    }

    /// What a row's elements have become when they are read again, exactly.
    pub(crate) fn kept(self, row: &[f32]) -> Vec<f64> {
        match self {
            Storage::Float32 => row.iter().map(|&x| f64::from(x)).collect(),
            Storage::Bfloat16 => row.iter().map(|&x| f64::from(Precision::Bfloat16.round(x))).collect(),
            Storage::Int8 => {
                let scale = int8_scale(row);
                row.iter().map(|&x| f64::from(scale) * f64::from(int8(x, scale))).collect()
            }
        }
    }
}

/// What one step of the integers of a row is worth; not a number where the row has an element that is not finite.
pub(crate) fn int8_scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    if row.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN }
}

/// The integer nearest to an element, ties to even.
pub(crate) fn int8(x: f32, scale: f32) -> i8 {
    if scale > 0.0 { (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_off_by_half_a_step_at_most() {
        let row: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let kept = Storage::Int8.kept(&row);
        let step = f64::from(largest) / 127.0;
        for (&x, kept) in row.iter().zip(&kept) {
            assert!((f64::from(x) - kept).abs() <= 0.5000001 * step, "{x} became {kept}");
        }
        assert!(kept.iter().any(|kept| (kept.abs() - f64::from(largest)).abs() < 1e-6));
        let again: Vec<f32> = kept.iter().map(|&x| x as f32).collect();
        for (once, twice) in kept.iter().zip(Storage::Int8.kept(&again)) {
            assert!((once - twice).abs() < 1e-6, "{once} became {twice}");
        }
    }

    #[test]
    fn awkward_rows() {
        assert_eq!(Storage::Int8.kept(&[0.0, -0.0]), [0.0, 0.0]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(Storage::Int8.kept(&[1.0, bad]).iter().all(|x| x.is_nan()));
        }
        let tiny = [1e-44f32, -3e-45];
        assert!(Storage::Int8.kept(&tiny).iter().all(|x| x.abs() <= 2e-44));
        assert_eq!(Storage::Bfloat16.kept(&[1.003_906_2]), [1.0]);
        assert_eq!(Storage::Float32.kept(&[1.003_906_2]), [f64::from(1.003_906_2f32)]);
    }

    #[test]
    fn room_is_that_of_whole_panels() {
        assert_eq!(Storage::Float32.bytes(50304, 768), 4 * 50304 * 768);
        assert_eq!(Storage::Bfloat16.bytes(50304, 768), 2 * 50304 * 768);
        assert_eq!(Storage::Int8.bytes(50304, 768), 50304 * 768 + 4 * 50304);
        assert_eq!(Storage::Int8.bytes(1, 5), 32 * 8 + 4);
    }
}
