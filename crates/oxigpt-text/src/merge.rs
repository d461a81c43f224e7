//! Byte-pair merging: of all neighbours that may merge, the pair of lowest rank does, the leftmost first, until none
//! may. Two ways to the same result: scanning for the next merge, which is the faster one for short pieces, and a
//! heap, which keeps long ones from costing the square of their length.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

/// In place of a rank: the two do not merge.
const NONE: u16 = u16::MAX;

/// More merges than these cannot be numbered.
pub(crate) const MAX_MERGES: usize = NONE as usize;

/// Up to this many bytes, scanning is used.
const SCAN_LIMIT: usize = 64;

/// Which neighbours merge, in what order, and what they become.
#[derive(Debug)]
pub(crate) struct Merges {
    /// The rank of a pair: lower ones merge first.
    ranks: FxHashMap<(u16, u16), u16>,
    /// The token that the pair of each rank becomes.
    merged: Vec<u16>,
}

impl Merges {
    /// `pairs` are the two halves of a token and its id, at most [`MAX_MERGES`] of them in order of rank. Of two merges
    /// of one pair, the later counts.
    pub(crate) fn new(pairs: impl Iterator<Item = ((u16, u16), u16)>) -> Merges {
        let (pairs, merged): (Vec<_>, Vec<_>) = pairs.unzip();
        Merges { ranks: pairs.into_iter().zip(0..).collect(), merged }
    }

    /// Merges `ids`, the byte tokens of a piece, and appends the result.
    pub(crate) fn merge_into(&self, ids: &mut [u16], out: &mut Vec<u32>) {
        if ids.len() <= SCAN_LIMIT { self.scan(ids, out) } else { self.drain_heap(ids, out) }
    }

    fn rank(&self, left: u16, right: u16) -> u16 {
        self.ranks.get(&(left, right)).copied().unwrap_or(NONE)
    }

    /// For at most [`SCAN_LIMIT`] ids.
    fn scan(&self, ids: &mut [u16], out: &mut Vec<u32>) {
        // candidates[i]: the rank of ids[i] and ids[i + 1].
        let mut candidates = [NONE; SCAN_LIMIT];
        for (candidate, pair) in candidates.iter_mut().zip(ids.windows(2)) {
            *candidate = self.rank(pair[0], pair[1]);
        }
        let mut n = ids.len();
        while let Some((i, &rank)) = (candidates[..n].iter().enumerate()).min_by_key(|&(_, &rank)| rank)
            && rank != NONE
        {
            let merged = self.merged[usize::from(rank)];
            ids[i] = merged;
            ids.copy_within(i + 2..n, i + 1);
            candidates.copy_within(i + 1..n, i);
            n -= 1;
            candidates[i] = if i + 1 < n { self.rank(merged, ids[i + 1]) } else { NONE };
            if i > 0 {
                candidates[i - 1] = self.rank(ids[i - 1], merged);
            }
        }
        out.extend(ids[..n].iter().map(|&id| u32::from(id)));
    }

    /// For any number of ids: a linked list of what is left, and a heap of the merges to come. A merge that has become
    /// impossible stays in the heap, and is known by its not being its place's candidate any more.
    fn drain_heap(&self, ids: &mut [u16], out: &mut Vec<u32>) {
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.saturating_sub(1)).collect();
        let mut candidates: Vec<u16> = ids.windows(2).map(|pair| self.rank(pair[0], pair[1])).collect();
        candidates.push(NONE);
        let mut heap: BinaryHeap<Reverse<(u16, usize)>> = candidates
            .iter()
            .zip(0..)
            .filter(|&(&rank, _)| rank != NONE)
            .map(|(&rank, i)| Reverse((rank, i)))
            .collect();
        while let Some(Reverse((rank, i))) = heap.pop() {
            if candidates[i] != rank {
                continue;
            }
            let merged = self.merged[usize::from(rank)];
            let right = next[i];
            ids[i] = merged;
            candidates[right] = NONE;
            next[i] = next[right];
            if next[i] < n {
                previous[next[i]] = i;
            }
            candidates[i] = if next[i] < n { self.rank(merged, ids[next[i]]) } else { NONE };
            let left = previous[i];
            if i > 0 {
                candidates[left] = self.rank(ids[left], merged);
            }
            let changed = if i > 0 { &[left, i][..] } else { &[i][..] };
            heap.extend(
                changed.iter().filter(|&&j| candidates[j] != NONE).map(|&j| Reverse((candidates[j], j))),
            );
        }
        let left_over = std::iter::successors(Some(0), |&i| Some(next[i]).filter(|&i| i < n));
        out.extend(left_over.map(|i| u32::from(ids[i])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Random merges over four byte tokens: later tokens are made of any two earlier ones.
    fn arbitrary_merges() -> impl Strategy<Value = Merges> {
        vec((any::<u16>(), any::<u16>()), 1..24).prop_map(|halves| {
            let pairs = halves.into_iter().zip(4..).map(|((a, b), id)| ((a % id, b % id), id));
            Merges::new(pairs)
        })
    }

    proptest! {
        #[test]
        fn heap_and_scan_agree(merges in arbitrary_merges(), ids in vec(0..4u16, 1..=SCAN_LIMIT)) {
            let (mut scanned, mut drained) = (Vec::new(), Vec::new());
            merges.scan(&mut ids.clone(), &mut scanned);
            merges.drain_heap(&mut ids.clone(), &mut drained);
            prop_assert_eq!(scanned, drained);
        }
    }
}
