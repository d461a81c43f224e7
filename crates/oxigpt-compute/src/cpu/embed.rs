//! Token and position embeddings, and their adjoint.
//!
//! The adjoint adds rows of gradient to rows of the table, and one word may stand in many places. It is cut by
//! columns, so that every sum has one thread and one order.

use super::elementwise::blocks;
use super::memory::Shared;
use super::pool::Pool;
use super::stored::Stored;

/// The table of words.
#[derive(Clone, Copy)]
pub(super) enum Words<'a> {
    Real(Shared<'a>),
    Stored(Stored<'a>),
}

/// `out[b,t] = wte[tokens[b,t]] + wpe[positions[b,t]]`, or `wpe[t]`.
pub(super) fn embed(
    pool: &mut Pool,
    (tokens, t, positions): (&[u32], usize, Option<&[u32]>),
    (wte, wpe): (Words, Shared),
    out: Shared,
) {
    let width = out.len() / tokens.len();
    blocks(pool, tokens.len(), 64, |rows| {
        for row in rows {
            let position = positions.map_or(row % t, |positions| positions[row] as usize);
            let (word, place) = (tokens[row] as usize, position * width);
            // SAFETY: rows do not overlap, and nobody writes to the tables.
            unsafe {
                let out = out.write(row * width..(row + 1) * width);
                match wte {
                    Words::Real(wte) => out.copy_from_slice(wte.read(word * width..(word + 1) * width)),
                    Words::Stored(wte) => wte.read_row(word, out),
                }
                out.iter_mut().zip(wpe.read(place..place + width)).for_each(|(out, b)| *out += b);
            }
        }
    });
}

/// Columns of one task.
const COLUMNS: usize = 64;

/// A table's gradient, and whether to add to it.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) gradient: Shared<'a>,
    pub(super) accumulate: bool,
}

/// `dwte[tokens[b,t]] += dout[b,t]`, `dwpe[t] += dout[b,t]`.
pub(super) fn embed_backward(
    pool: &mut Pool,
    (tokens, t): (&[u32], usize),
    dout: Shared,
    words: Table,
    places: Table,
) {
    let width = dout.len() / tokens.len();
    let columns_of = |index: usize| index * COLUMNS..((index + 1) * COLUMNS).min(width);
    pool.run(width.div_ceil(COLUMNS), |index, _| {
        let columns = columns_of(index);
        // SAFETY: each task has its own columns of both tables, and nobody writes to `dout`.
        unsafe {
            for table in [words, places] {
                if !table.accumulate {
                    for start in (0..table.gradient.len()).step_by(width) {
                        table.gradient.write(start + columns.start..start + columns.end).fill(0.0);
                    }
                }
            }
            for (row, &token) in tokens.iter().enumerate() {
                let part = |row: usize| row * width + columns.start..row * width + columns.end;
                let gradient = dout.read(part(row));
                for (table, entry) in [(words, token as usize), (places, row % t)] {
                    for (sum, g) in table.gradient.write(part(entry)).iter_mut().zip(gradient) {
                        *sum += g;
                    }
                }
            }
        }
    });
}
