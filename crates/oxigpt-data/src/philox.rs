//! Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy
//! as 1, 2, 3", SC 2011). A draw is a pure function of key and counter, so whatever needs random numbers at
//! position `i` of a run asks for number `i`; there is no state to save or to keep in step between processes.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four random words at `counter` under `key`.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        let (a_hi, a_lo) = ((a >> 32) as u32, a as u32);
        let (b_hi, b_lo) = ((b >> 32) as u32, b as u32);
        counter = [b_hi ^ counter[1] ^ key[0], b_lo, a_hi ^ counter[3] ^ key[1], a_lo];
    }
    counter
}

/// Four random words for (`seed`, `index`) within `stream`. Uses of one seed that must not be correlated take
/// different streams.
pub fn draw(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    let [index, stream] = [index, stream].map(|word| [word as u32, (word >> 32) as u32]);
    philox4x32([index[0], index[1], stream[0], stream[1]], [seed as u32, (seed >> 32) as u32])
}

/// Maps 64 random bits to `0..bound` by a multiplication; the bias is at most `bound / 2^64`.
pub fn below(words: [u32; 2], bound: u64) -> u64 {
    let bits = u64::from(words[0]) | u64::from(words[1]) << 32;
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that are published with Random123.
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn seed_stream_and_index_each_matter() {
        let base = draw(1, 2, 3);
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1 << 32 | 1, 2, 3)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_reaches_both_ends_and_never_the_bound() {
        assert_eq!(below([0, 0], 7), 0);
        assert_eq!(below([u32::MAX, u32::MAX], 7), 6);
        assert_eq!(below([u32::MAX, u32::MAX], u64::MAX), u64::MAX - 1);
        let mut seen = [0u32; 5];
        for i in 0..5000 {
            let words = draw(7, 0, i);
            seen[below([words[0], words[1]], 5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }
}
