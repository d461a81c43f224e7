//! The tables by which one launch goes over all parameters: what belongs to each, and the chunks that they are cut into.

use std::sync::Arc;

use super::driver::{Gpu, Memory};
use super::error::CudaError;
use crate::{Op, Plan, TensorId};

/// Elements of a chunk at most; `kernels/update.cu` counts on it.
const CHUNK: usize = 4096;

/// Bytes of a `Slot` of `kernels/update.cu`.
const SLOT_BYTES: usize = 48;

/// Tables of all updates of a plan, in the memory of the GPU.
pub(super) struct Tables(Vec<Table>);

/// The tables of one list of gradients.
pub(super) struct Table {
    gradients: Vec<TensorId>,
    memory: Memory,
    /// Address of the slots.
    pub(super) slots: u64,
    /// Address of the chunks.
    pub(super) chunks: u64,
    /// How many there are.
    pub(super) n_chunks: usize,
}

impl Tables {
    /// `address` gives where a tensor and its copy in bfloat16 are.
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        plan: &Plan,
        address: impl Fn(TensorId) -> (u64, u64),
    ) -> Result<Tables, CudaError> {
        let mut tables: Vec<Table> = Vec::new();
        let ops = || plan.phases().flat_map(|(_, phase)| &phase.ops);
        // Updates first: their slots also serve the norm of the same gradients.
        for op in ops().filter(|op| matches!(op, Op::AdamW { .. })).chain(ops()) {
            let Some(gradients) = gradients(op) else { continue };
            if tables.iter().any(|table| table.gradients == gradients) {
                continue;
            }
            let lens: Vec<usize> = gradients.iter().map(|&id| plan.tensor(id).len()).collect();
            let (slots, chunks) = (slots(op, &address), chunks(&lens));
            let memory = gpu.allocate(slots.len() + chunks.len())?;
            gpu.write(memory.at(0), &slots)?;
            gpu.write(memory.at(slots.len()), &chunks)?;
            tables.push(Table {
                slots: memory.at(0),
                chunks: memory.at(slots.len()),
                n_chunks: count(&lens),
                gradients,
                memory,
            });
        }
        Ok(Tables(tables))
    }

    /// The table of an operator.
    pub(super) fn of(&self, op: &Op) -> &Table {
        let gradients = gradients(op);
        let table = self.0.iter().find(|table| Some(&table.gradients) == gradients.as_ref());
        table.expect("every update of a plan has its table")
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|table| table.memory.bytes()).sum()
    }
}

/// Chunks of tensors of these lengths.
pub(super) fn count(lens: &[usize]) -> usize {
    lens.iter().map(|len| len.div_ceil(CHUNK)).sum()
}

/// The gradients that an operator goes over, if it is one that does.
pub(super) fn gradients(op: &Op) -> Option<Vec<TensorId>> {
    match op {
        Op::GradNorm { gradients, .. } => Some(gradients.clone()),
        Op::AdamW { slots, .. } => Some(slots.iter().map(|slot| slot.gradient).collect()),
        _ => None,
    }
}

/// `struct Slot { float* parameter; const float* gradient; float* m; float* v; bf16* copy; u64 decay; }` for each.
fn slots(op: &Op, address: impl Fn(TensorId) -> (u64, u64)) -> Vec<u8> {
    let words: Vec<[u64; SLOT_BYTES / 8]> = match op {
        Op::GradNorm { gradients, .. } => {
            gradients.iter().map(|&id| [0, address(id).0, 0, 0, 0, 0]).collect()
        }
        Op::AdamW { slots, .. } => slots
            .iter()
            .map(|slot| {
                let (parameter, copy) = address(slot.parameter);
                let [gradient, m, v] = [slot.gradient, slot.m, slot.v].map(|id| address(id).0);
                [parameter, gradient, m, v, copy, u64::from(slot.decay)]
            })
            .collect(),
        _ => Vec::new(),
    };
    words.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
}

/// `struct Chunk { unsigned slot; unsigned len; u64 start; }` for each.
fn chunks(lens: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (slot, &len) in lens.iter().enumerate() {
        for start in (0..len).step_by(CHUNK) {
            bytes.extend((slot as u32).to_le_bytes());
            bytes.extend((CHUNK.min(len - start) as u32).to_le_bytes());
            bytes.extend((start as u64).to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_tensor() {
        let lens = [1, CHUNK, CHUNK + 3];
        let bytes = chunks(&lens);
        assert_eq!(bytes.len(), 16 * count(&lens));
        let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
        let found: Vec<_> =
            (0..count(&lens)).map(|i| (word(4 * i), word(4 * i + 1), word(4 * i + 2))).collect();
        let chunk = CHUNK as u32;
        assert_eq!(found, [(0, 1, 0), (1, chunk, 0), (2, chunk, 0), (2, 3, chunk)]);
    }
}
