//! A share of right answers, and how sure it is.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// How many of how many were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Right answers.
    pub correct: u64,
    /// Answers, at least one.
    pub items: u64,
}

impl Accuracy {
    /// Counts the right ones.
    pub fn of(answers: impl Iterator<Item = bool>) -> Accuracy {
        answers.fold(Accuracy::default(), |sum, right| Accuracy {
            correct: sum.correct + u64::from(right),
            items: sum.items + 1,
        })
    }

    /// The share of right answers.
    pub fn value(&self) -> f64 {
        self.correct as f64 / self.items as f64
    }

    /// The 95 % confidence interval of the share (Wilson 1927; the score interval, without correction for continuity). It
    /// begins with 0 where none was right, and ends with 1 where all were, which rounding would miss.
    pub fn interval(&self) -> [f64; 2] {
        let (n, p) = (self.items as f64, self.value());
        let center = p + Z * Z / (2.0 * n);
        let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let [low, high] = [center - reach, center + reach].map(|bound| bound / (1.0 + Z * Z / n));
        [if self.correct == 0 { 0.0 } else { low }, if self.correct == self.items { 1.0 } else { high }]
    }
}

/// As `value`, `correct`, `items` and `interval`.
impl Serialize for Accuracy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Accuracy", 4)?;
        fields.serialize_field("value", &self.value())?;
        fields.serialize_field("correct", &self.correct)?;
        fields.serialize_field("items", &self.items)?;
        fields.serialize_field("interval", &self.interval())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_interval(correct: u64, items: u64, expected: [f64; 2]) {
        let found = Accuracy { correct, items }.interval();
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 5e-5, "{correct} of {items}: {found} is not {expected}");
        }
    }

    /// Newcombe 1998, table I, method 3.
    #[test]
    fn intervals_are_those_of_the_literature() {
        assert_interval(81, 263, [0.2553, 0.3662]);
        assert_interval(15, 148, [0.0624, 0.1605]);
        assert_interval(0, 20, [0.0, 0.1611]);
        assert_interval(1, 29, [0.0061, 0.1718]);
        assert_interval(20, 20, [0.8389, 1.0]);
    }

    #[test]
    fn none_and_all_have_exact_ends() {
        for items in 1..100 {
            let ends = |correct| Accuracy { correct, items }.interval();
            assert_eq!((ends(0)[0], ends(items)[1]), (0.0, 1.0), "{items} items");
            for correct in 1..items {
                let [low, high] = ends(correct);
                assert!(0.0 < low && low < high && high < 1.0, "{correct} of {items}: {low} to {high}");
            }
        }
    }

    #[test]
    fn right_answers_are_counted() {
        let accuracy = Accuracy::of([true, false, false, true, false].into_iter());
        assert_eq!(accuracy, Accuracy { correct: 2, items: 5 });
        assert_eq!(accuracy.value(), 0.4);
    }
}
