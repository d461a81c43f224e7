//! Liveness and placement: gives every tensor its place in one arena.
//!
//! Tensors that outlive a phase lie side by side. Transient ones live, within their phase, from the first
//! operator that touches them to the last; two of them may share memory where their lives do not overlap, and
//! all phases use the same region. Placement is greedy, largest first, each at the lowest offset that is free
//! during its life.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::{Phase, Plan, Tensor, TensorId};

/// Offsets of all tensors and the size of the arena, in bytes, where each takes as many as `bytes_of` says.
pub(crate) fn place(
    tensors: &[Tensor],
    phases: &[Phase],
    bytes_of: impl Fn(TensorId) -> usize,
) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; tensors.len()];
    let mut persistent_bytes = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        if !tensor.role.is_transient() {
            offsets[i] = persistent_bytes;
            persistent_bytes += bytes_of(TensorId(i as u32));
        }
    }
    let mut arena_bytes = persistent_bytes;
    let mut placed = vec![false; tensors.len()];
    for phase in phases {
        let mut lives: Vec<_> = lives(tensors, phase)
            .into_iter()
            .filter(|(id, _)| !std::mem::replace(&mut placed[id.index()], true))
            .collect();
        // Stable, so that equal sizes keep the order of their making.
        lives.sort_by_key(|(id, _)| std::cmp::Reverse(bytes_of(*id)));
        let mut taken: Vec<Place> = Vec::with_capacity(lives.len());
        for (id, life) in lives {
            let bytes = bytes_of(id);
            let start = lowest_free(&taken, &life, bytes, persistent_bytes);
            offsets[id.index()] = start;
            arena_bytes = arena_bytes.max(start + bytes);
            let at = taken.partition_point(|p| p.start <= start);
            taken.insert(at, Place { start, end: start + bytes, life });
        }
    }
    (offsets, arena_bytes)
}

struct Place {
    start: usize,
    end: usize,
    life: RangeInclusive<usize>,
}

/// Bytes of a tensor up to where the next may begin, where every element takes what its type says.
pub(crate) fn aligned(tensor: &Tensor) -> usize {
    tensor.bytes().next_multiple_of(Plan::ALIGNMENT)
}

/// First and last operator of `phase` that touch each transient tensor.
fn lives(tensors: &[Tensor], phase: &Phase) -> BTreeMap<TensorId, RangeInclusive<usize>> {
    let mut lives = BTreeMap::new();
    for (step, op) in phase.ops.iter().enumerate() {
        let operands = op.operands();
        for id in operands.reads.into_iter().chain(operands.writes) {
            if tensors[id.index()].role.is_transient() {
                let life = lives.entry(id).or_insert(step..=step);
                *life = *life.start()..=step;
            }
        }
    }
    lives
}

/// The lowest offset from `floor` on where `bytes` fit between the places (sorted by start) alive during `life`.
fn lowest_free(taken: &[Place], life: &RangeInclusive<usize>, bytes: usize, floor: usize) -> usize {
    let mut start = floor;
    for place in taken {
        let overlaps = place.life.start() <= life.end() && life.start() <= place.life.end();
        if !overlaps {
            continue;
        }
        if start + bytes <= place.start {
            break;
        }
        start = start.max(place.end);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Gelu};

    /// No two tensors that are alive together overlap, on a plan with forward and backward.
    #[test]
    fn tensors_alive_together_do_not_overlap() {
        let mut b = Builder::new();
        let wte = b.parameter("wte", &[64, 24]);
        let wpe = b.parameter("wpe", &[8, 24]);
        let w = b.parameter("w", &[24, 24]);
        let phase = b.begin("train");
        let tokens = b.input_u32("tokens", &[3, 8], 50);
        let targets = b.input_u32("targets", &[3, 8], 50);
        let mut x = b.embed(tokens, None, wte, wpe);
        for _ in 0..3 {
            let y = b.linear(x, crate::LinearWeights { w, bias: None });
            let y = b.gelu(y, Gelu::Tanh);
            x = b.add(x, y);
        }
        let loss = b.classifier(x, wte, targets, 50);
        b.backward(&[(loss, 1.0)]);
        let plan = b.finish();

        let lives = lives(&plan.tensors, plan.phase(phase));
        assert!(lives.len() > 10);
        let places: Vec<_> = lives
            .iter()
            .map(|(id, life)| (plan.offset(*id), aligned(plan.tensor(*id)), life.clone()))
            .collect();
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                let together = a.2.start() <= b.2.end() && b.2.start() <= a.2.end();
                assert!(!together || a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0, "{a:?} overlaps {b:?}");
            }
        }
        let total: usize = places.iter().map(|p| p.1).sum();
        assert!(plan.memory_by_role()[&crate::Role::Activation] < total, "nothing shares memory");
    }
}
