//! Numbers and paths in messages.

use std::borrow::Cow;

/// A number and what it counts: `1 step`, `2 steps`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A word as a shell takes it for one: quoted, where it has to be.
pub fn shell_word(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|n| count(n, "step")), ["0 steps", "1 step", "2 steps"]);
    }

    #[test]
    fn words_stay_whole_in_a_shell() {
        let words = ["out/run-1", "my run", "it's", ""].map(shell_word);
        assert_eq!(words, ["out/run-1", "'my run'", r"'it'\''s'", "''"]);
    }
}
