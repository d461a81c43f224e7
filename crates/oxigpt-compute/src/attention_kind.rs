//! The kinds of attention as data, and their names: the one place that reads and writes these.

use std::fmt;

use thiserror::Error;

/// How the scores of a query become attention weights.
///
/// For query `i` and key `j <= i`, `s = 1 / sqrt D`; weights of `j > i` are zero, and the result is `sum_j a_ij v_j`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// `a_ij = exp(s q_i . k_j) / sum_{l <= i} exp(s q_i . k_l)` (Vaswani et al. 2017, section 3.2.1).
    Softmax,
    /// `a_ij = exp(z_ij)` with `z_ij = -s |q_i - k_j|^2 / 2`: a Gaussian kernel. Rows do not sum to one.
    ///
    /// Where the squared distance is computed as `|q|^2 + |k|^2 - 2 q . k`, it is at least zero.
    Gaussian,
    /// `a_ij = (1 + z_ij / 2^n)^(2^n)`, which tends to `Gaussian` for large `n`, and stays near it for
    /// `-2^n <= z_ij <= 0`. Below that range the power grows without bound.
    GaussianPoly {
        /// `n`: that many squarings.
        squarings: u32,
        /// Whether `z_ij < -2^n` gives the weight 0 (and no gradient), as at the end of the range.
        clamp: bool,
    },
    /// `a_ij = f(s q_i . k_j) / d_i`, score by score.
    Pointwise {
        /// `f`.
        activation: Activation,
        /// `d_i`.
        scale: AttentionScale,
    },
}

/// What a pointwise attention applies to each score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Phi(x)`, the exact GELU.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x^2`.
    Square,
    /// `max(x, 0)^2`.
    ReluSquare,
}

/// What the weights of a pointwise attention are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScale {
    /// The length of the whole text at hand, for every query. The past then changes as a text grows: what is cached of
    /// a shorter text is wrong for a longer one.
    Length,
    /// The keys that the query sees: `i + 1`.
    Position,
    /// A fixed number: the context that the model was made for.
    Block(usize),
}

/// A word for an attention that does not exist.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{key}` must be {expected}, not {found}")]
pub struct AttentionError {
    /// The setting.
    pub key: &'static str,
    /// What there is.
    pub expected: String,
    /// What was asked for, as it would be written.
    pub found: String,
}

/// Squarings of a polynomial at most: the range of the last is 2^16 wide.
const MAX_SQUARINGS: u32 = 16;

const ACTIVATIONS: [(&str, Activation); 5] = [
    ("gelu", Activation::Gelu),
    ("relu", Activation::Relu),
    ("sigmoid", Activation::Sigmoid),
    ("square", Activation::Square),
    ("relu-square", Activation::ReluSquare),
];

/// Every kind with the name that it has in settings and files.
const KINDS: &str = "one of softmax, gaussian, gaussian-poly-N (N = 1 to 16), pointwise-gelu, pointwise-relu, \
                     pointwise-sigmoid, pointwise-square, pointwise-relu-square";

impl AttentionKind {
    /// The kind of a name: `softmax`, `gaussian`, `gaussian-poly-8`, `pointwise-relu`, or the older `SM`, `GK`,
    /// `GKpoly-8`, `PA_relu`. `scale` is for pointwise kinds, and no other heeds it; `clamp` is for polynomials.
    ///
    /// # Errors
    /// If there is no such kind, or no range that it could be clamped to.
    pub fn parse(name: &str, scale: AttentionScale, clamp: bool) -> Result<AttentionKind, AttentionError> {
        let suffix = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
        let unknown = |expected: &str| error("attn_type", expected, format!("{name:?}"));
        if let Some(degree) = suffix(["gaussian-poly-", "GKpoly-"]) {
            // As it is printed, and neither "+8" nor "08".
            let is_plain = degree.starts_with(|c: char| ('1'..='9').contains(&c));
            let squarings = degree.parse().ok().filter(|n| is_plain && (1..=MAX_SQUARINGS).contains(n));
            let expected =
                "gaussian-poly-N with a whole number N from 1 to 16, which is how often it squares";
            return match squarings {
                Some(squarings) => Ok(AttentionKind::GaussianPoly { squarings, clamp }),
                None => Err(unknown(expected)),
            };
        }
        let kind = if let Some(function) = suffix(["pointwise-", "PA_"]) {
            let known = ACTIVATIONS.iter().find(|(word, _)| *word == function);
            known.map(|&(_, activation)| AttentionKind::Pointwise { activation, scale })
        } else {
            match name {
                "softmax" | "SM" => Some(AttentionKind::Softmax),
                "gaussian" | "GK" => Some(AttentionKind::Gaussian),
                _ => None,
            }
        };
        let kind = kind.ok_or_else(|| unknown(KINDS))?;
        if clamp {
            let expected = format!("false for {kind}: only gaussian-poly-N has a range to keep to");
            return Err(error("attn_clamp", &expected, "true".into()));
        }
        Ok(kind)
    }

    /// What a pointwise kind divides by.
    pub fn scale(self) -> Option<AttentionScale> {
        if let AttentionKind::Pointwise { scale, .. } = self { Some(scale) } else { None }
    }

    /// Whether a polynomial is cut off where its range ends.
    pub fn clamp(self) -> bool {
        matches!(self, AttentionKind::GaussianPoly { clamp: true, .. })
    }

    /// Whether scores are negative halves of squared distances.
    pub fn is_gaussian(self) -> bool {
        matches!(self, AttentionKind::Gaussian | AttentionKind::GaussianPoly { .. })
    }

    /// The lowest score of the range in which a polynomial resembles its kernel: `-2^n`.
    pub fn lowest_score(self) -> Option<f64> {
        match self {
            AttentionKind::GaussianPoly { squarings, .. } => Some(-f64::from(1 << squarings)),
            _ => None,
        }
    }

    /// Whether weights depend on the length of the whole text, so that nothing can be kept of a shorter one.
    pub fn depends_on_length(self) -> bool {
        self.scale() == Some(AttentionScale::Length)
    }

    /// `d_i`: what the weights of the query at `position` are divided by, in a text of `length`.
    pub fn divisor(self, position: usize, length: usize) -> usize {
        match self.scale() {
            None => 1,
            Some(AttentionScale::Length) => length,
            Some(AttentionScale::Position) => position + 1,
            Some(AttentionScale::Block(block_size)) => block_size,
        }
    }
}

impl fmt::Display for AttentionKind {
    /// The name that [`AttentionKind::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttentionKind::Softmax => f.write_str("softmax"),
            AttentionKind::Gaussian => f.write_str("gaussian"),
            AttentionKind::GaussianPoly { squarings, .. } => write!(f, "gaussian-poly-{squarings}"),
            AttentionKind::Pointwise { activation, .. } => {
                let word =
                    ACTIVATIONS.iter().find(|(_, known)| known == activation).map_or("", |(word, _)| word);
                write!(f, "pointwise-{word}")
            }
        }
    }
}

impl AttentionScale {
    /// The scale of a name: `length`, `position`, `block` for a model made for `block_size`, or `block-N` for any other.
    ///
    /// # Errors
    /// If there is no such scale.
    pub fn parse(name: &str, block_size: usize) -> Result<AttentionScale, AttentionError> {
        let expected = "length, position, block, or block-N with a whole number N from 1";
        let divisor = |digits: &str| digits.parse().ok().filter(|&n: &usize| n > 0 && n <= u32::MAX as usize);
        match name {
            "length" => Some(AttentionScale::Length),
            "position" => Some(AttentionScale::Position),
            "block" => Some(AttentionScale::Block(block_size)),
            _ => name.strip_prefix("block-").and_then(divisor).map(AttentionScale::Block),
        }
        .ok_or_else(|| error("attn_scale", expected, format!("{name:?}")))
    }

    /// The name that [`AttentionScale::parse`] reads for a model of `block_size`.
    pub fn name(self, block_size: usize) -> String {
        if self == AttentionScale::Block(block_size) { "block".into() } else { self.to_string() }
    }
}

impl fmt::Display for AttentionScale {
    /// The name that [`AttentionScale::parse`] reads whatever the context.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttentionScale::Length => f.write_str("length"),
            AttentionScale::Position => f.write_str("position"),
            AttentionScale::Block(block_size) => write!(f, "block-{block_size}"),
        }
    }
}

fn error(key: &'static str, expected: &str, found: String) -> AttentionError {
    AttentionError { key, expected: expected.into(), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<AttentionKind, AttentionError> {
        AttentionKind::parse(name, AttentionScale::Position, false)
    }

    #[test]
    fn every_name_reads_back() {
        let poly = ["gaussian-poly-1", "gaussian-poly-8", "gaussian-poly-16"];
        let pointwise = ACTIVATIONS.map(|(word, _)| format!("pointwise-{word}"));
        let pointwise = pointwise.iter().map(String::as_str);
        for name in ["softmax", "gaussian"].into_iter().chain(poly).chain(pointwise) {
            assert_eq!(parse(name).unwrap().to_string(), name);
        }
        for scale in ["length", "position", "block-7"] {
            assert_eq!(AttentionScale::parse(scale, 24).unwrap().to_string(), scale);
        }
        assert_eq!(AttentionScale::parse("block", 24).unwrap(), AttentionScale::Block(24));
        assert_eq!(AttentionScale::Block(24).name(24), "block");
        assert_eq!(AttentionScale::Block(24).name(12), "block-24");
    }

    #[test]
    fn older_names_are_read() {
        let now = [
            ("SM", "softmax"),
            ("GK", "gaussian"),
            ("GKpoly-8", "gaussian-poly-8"),
            ("PA_gelu", "pointwise-gelu"),
            ("PA_relu-square", "pointwise-relu-square"),
        ];
        for (older, name) in now {
            assert_eq!(parse(older), parse(name));
        }
    }

    #[test]
    fn what_does_not_exist_is_answered_with_what_does() {
        for name in
            ["", "sotfmax", "GKxyz", "gaussian-poly", "pointwise-", "pointwise-tanh", "PA_exp", "Softmax"]
        {
            let told = parse(name).unwrap_err().to_string();
            assert!(told.starts_with("`attn_type` must be one of softmax, gaussian, "), "{told}");
            assert!(told.ends_with(&format!("pointwise-relu-square, not {name:?}")), "{told}");
        }
        for degree in ["0", "17", "-1", "+8", "08", "8.0", "2**3", "", "99999999999"] {
            let told = parse(&format!("gaussian-poly-{degree}")).unwrap_err().to_string();
            assert!(told.contains("a whole number N from 1 to 16"), "{told}");
        }
        for scale in ["", "Length", "block-0", "block-x", "1024"] {
            assert!(
                AttentionScale::parse(scale, 24)
                    .unwrap_err()
                    .to_string()
                    .contains("`attn_scale` must be length")
            );
        }
        let told = AttentionKind::parse("gaussian", AttentionScale::Length, true).unwrap_err().to_string();
        assert!(told.starts_with("`attn_clamp` must be false for gaussian: "), "{told}");
    }

    #[test]
    fn divisors() {
        let divisors = |scale| {
            let kind = AttentionKind::parse("pointwise-relu", scale, false).unwrap();
            [0, 4].map(|position| kind.divisor(position, 10))
        };
        assert_eq!(divisors(AttentionScale::Length), [10, 10]);
        assert_eq!(divisors(AttentionScale::Position), [1, 5]);
        assert_eq!(divisors(AttentionScale::Block(16)), [16, 16]);
        assert_eq!(AttentionKind::Gaussian.divisor(4, 10), 1);
    }
}
