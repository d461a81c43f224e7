//! How numbers are stored on the device, and what they become on their way there and back.

use std::borrow::Cow;

use bytemuck::cast_slice;

use crate::bfloat16::rounded;
use crate::storage::{int8, int8_scale};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// So many times, from -127 to 127, the scale of its row. The scales, in float32, follow the last row.
    I8,
    /// An unsigned integer of 32 bits.
    U32,
}

impl Element {
    /// Bytes of one.
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::I8 => 1,
            Element::Bf16 => 2,
            Element::F32 | Element::U32 => 4,
        }
    }

    /// Where the scales of `rows * width` integers begin.
    pub(super) fn scales_at(rows: usize, width: usize) -> usize {
        (rows * width).next_multiple_of(4)
    }

    /// Bytes of a matrix.
    pub(super) fn bytes_of(self, rows: usize, width: usize) -> usize {
        match self {
            Element::I8 => Element::scales_at(rows, width) + 4 * rows,
            Element::Bf16 | Element::F32 | Element::U32 => rows * width * self.bytes(),
        }
    }

    /// Rows of reals as they are stored.
    pub(super) fn encode(self, reals: &[f32], width: usize) -> Cow<'_, [u8]> {
        match self {
            Element::F32 | Element::U32 => cast_slice(reals).into(),
            Element::Bf16 => reals.iter().flat_map(|&x| ((rounded(x) >> 16) as u16).to_le_bytes()).collect(),
            Element::I8 => {
                let scales: Vec<f32> = reals.chunks(width).map(int8_scale).collect();
                let rows = reals.chunks(width).zip(&scales);
                let mut bytes: Vec<u8> =
                    rows.flat_map(|(row, &scale)| row.iter().map(move |&x| int8(x, scale) as u8)).collect();
                bytes.resize(Element::scales_at(scales.len(), width), 0);
                bytes.extend_from_slice(cast_slice(&scales));
                bytes.into()
            }
        }
    }

    /// The reals that are stored in so many bytes.
    pub(super) fn decode(self, bytes: &[u8], width: usize, reals: &mut [f32]) {
        let floats = |bytes: &[u8]| {
            let words = bytes.as_chunks().0.iter();
            words.map(|&word| f32::from_le_bytes(word)).collect::<Vec<_>>()
        };
        match self {
            Element::F32 | Element::U32 => reals.copy_from_slice(&floats(bytes)),
            Element::Bf16 => {
                let halves = bytes.as_chunks().0.iter().map(|&half| u16::from_le_bytes(half));
                reals.iter_mut().zip(halves).for_each(|(x, half)| *x = f32::from_bits(u32::from(half) << 16));
            }
            Element::I8 => {
                let scales = floats(&bytes[Element::scales_at(reals.len() / width, width)..]);
                let rows = reals.chunks_mut(width).zip(bytes.chunks(width)).zip(scales);
                for ((row, steps), scale) in rows {
                    row.iter_mut().zip(steps).for_each(|(x, &step)| *x = scale * f32::from(step as i8));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rows of five: what a storage keeps comes back, and takes the room that was foreseen.
    #[test]
    fn numbers_come_back_as_they_are_kept() {
        let reals: Vec<f32> = (0..15).map(|i| (i as f32 - 7.0) * 0.37).collect();
        let room = [60, 30, 16 + 12];
        for ((element, worst), room) in
            [(Element::F32, 0.0), (Element::Bf16, 4e-3), (Element::I8, 4e-3)].into_iter().zip(room)
        {
            let bytes = element.encode(&reals, 5);
            assert_eq!((bytes.len(), element.bytes_of(3, 5)), (room, room), "{element:?}");
            let mut back = [0.0; 15];
            element.decode(&bytes, 5, &mut back);
            for (row, back) in reals.chunks(5).zip(back.chunks(5)) {
                let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let off = row.iter().zip(back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= worst * largest, "{element:?}: {off}");
            }
        }
    }
}
