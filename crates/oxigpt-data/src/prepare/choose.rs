//! Which part of the text is kept for validation.

use super::source::Input;
use crate::dataset::Split;

/// How the validation part is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holdout {
    /// The last characters of all text (nanoGPT's rule for Tiny Shakespeare); for [`super::Format::Text`] alone. The
    /// inputs are read twice, since their characters must be counted first.
    Tail,
    /// Each document by a hash of what it says and a seed. So a document stays where it is when others come or go, and
    /// no text is on both sides, however often it occurs.
    Documents {
        /// Another seed chooses others.
        seed: u64,
    },
    /// The first shard (build-nanogpt's rule); a document may go on in the next.
    FirstShard,
    /// The inputs that say so.
    Inputs,
}

/// [`Holdout`] with all that it needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chooser {
    /// All is for training, or it is decided later.
    All,
    /// Whatever begins before this character is for training.
    Tail { train_chars: u64 },
    /// This part of the documents is for validation.
    Documents { seed: u64, fraction: f64 },
    /// Whole inputs.
    Inputs,
}

impl Chooser {
    /// Where a document goes that begins with these bytes, behind so many characters of all text.
    pub(crate) fn split_of(&self, bytes: &[u8], input: &Input, chars_before: u64) -> Split {
        let is_val = match *self {
            Chooser::All => false,
            Chooser::Tail { train_chars } => chars_before >= train_chars,
            Chooser::Documents { seed, fraction } => unit(keyed_hash(seed, bytes)) < fraction,
            Chooser::Inputs => input.val,
        };
        if is_val { Split::Val } else { Split::Train }
    }
}

/// A hash as a number from 0 to 1, the 1 excluded.
fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// Mixes the text eight bytes at a time, and its length at the end. It spreads texts evenly; it is no protection against
/// somebody who looks for two with one hash.
fn keyed_hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(seed);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(hash ^ u64::from_le_bytes(last)) ^ bytes.len() as u64)
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014): a bijection in which every bit reaches every other.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_chosen_by_what_they_say() {
        let input = Input::file("x");
        let chosen = |seed, fraction, n: u64| {
            let chooser = Chooser::Documents { seed, fraction };
            (0..n)
                .filter(|i| chooser.split_of(format!("document {i}").as_bytes(), &input, 0) == Split::Val)
                .collect::<Vec<u64>>()
        };
        for fraction in [0.0005, 0.1, 0.5] {
            let (n, found) = (100_000, chosen(1, fraction, 100_000));
            let sigma = (n as f64 * fraction * (1.0 - fraction)).sqrt();
            assert!((found.len() as f64 - n as f64 * fraction).abs() < 5.0 * sigma, "{}", found.len());
            assert_eq!(found, chosen(1, fraction, n), "it depends on nothing else");
            assert_ne!(found, chosen(2, fraction, n));
        }
        // What is chosen for a small part is chosen for a larger one.
        let larger = chosen(1, 0.2, 1000);
        assert!(chosen(1, 0.1, 1000).iter().all(|i| larger.contains(i)));
    }

    #[test]
    fn every_byte_counts() {
        let text = [7u8; 21];
        let hash = keyed_hash(3, &text);
        for i in 0..text.len() {
            let mut other = text;
            other[i] ^= 1;
            assert_ne!(keyed_hash(3, &other), hash);
        }
        assert_ne!(keyed_hash(3, &[0; 8]), keyed_hash(3, &[0; 7]));
    }
}
