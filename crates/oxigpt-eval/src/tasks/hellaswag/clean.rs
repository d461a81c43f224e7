//! Texts as lm-evaluation-harness makes them of HellaSwag's (its task `hellaswag`, version 1).

/// Without space around it; ` [title]`, which WikiHow's texts have, as the end of a sentence; without other markers in
/// square brackets; two spaces as one, once.
pub(super) fn clean(text: &str) -> String {
    without_markers(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

/// Leaves out every `[...]` within a line, up to the nearest bracket that closes.
fn without_markers(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find('[') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        rest = match from.find([']', '\n']) {
            Some(close) if from[close..].starts_with(']') => &from[close + 1..],
            _ => {
                out.push('[');
                &from[1..]
            }
        };
    }
    out + rest
}

/// The first letter large and all others small, as Python's `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + &chars.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of the same lines in Python.
    #[test]
    fn texts_are_cleaned_as_python_does_it() {
        for (text, expected) in [
            (" a man. \n", "a man."),
            ("[header] How to sit [title] Find a chair. [step] Sit.", " How to sit. Find a chair. Sit."),
            ("go [title] on", "go. on"),
            ("go[title] on", "go on"),
            ("a [x] b", "a b"),
            ("a   b    c", "a  b  c"),
            ("a [x][y] b]", "a b]"),
            ("a [b [c] d] e", "a d] e"),
            ("a [b\nc] [d] e", "a [b\nc] e"),
            ("open [", "open ["),
            ("ends [step]", "ends "),
            ("[]", ""),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sentences_begin_with_one_large_letter() {
        for (text, expected) in
            [("he", "He"), ("the Lady", "The lady"), ("", ""), ("élan", "Élan"), ("4 X", "4 x")]
        {
            assert_eq!(capitalize(text), expected);
        }
    }
}
