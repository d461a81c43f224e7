//! What the readers take, and what they say about what they do not.

use std::path::PathBuf;

use fs_err as fs;
use oxigpt_eval::tasks::{TaskError, hellaswag, lambada, wikitext};
use tempfile::TempDir;

const GOOD: &str = r#"{"ctx": "He", "endings": ["a", "b", "c", "d"], "label": 2}"#;

fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.jsonl");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// The message about a file, without the file's folder, and the hint.
fn refused<T>(bytes: &[u8], read: impl Fn(&std::path::Path) -> Result<T, TaskError>) -> (String, String) {
    let (dir, path) = file(bytes);
    let Err(error) = read(&path) else { panic!("{} is read", String::from_utf8_lossy(bytes)) };
    let folder = format!("{}/", dir.path().display());
    (error.to_string().replace(&folder, ""), error.hint().unwrap())
}

#[test]
fn items_are_read() {
    let (_dir, path) = file(GOOD.as_bytes());
    let items = hellaswag::read(&path).unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].ctx.as_str(), items[0].label), ("He", 2));
    assert_eq!(items[0].endings, ["a", "b", "c", "d"]);
    assert_eq!((&items[0].activity_label, &items[0].ctx_a, &items[0].ctx_b), (&None, &None, &None));

    let published = hellaswag::read(&super::support::fixture("hellaswag_val.jsonl")).unwrap();
    assert_eq!(published[0].activity_label.as_deref(), Some("Roof shingle removal"));
    assert_eq!(published[0].ctx_a.as_deref(), Some("A man is sitting on a roof."));
    assert_eq!(published[0].ctx_b.as_deref(), Some("he"));
}

#[test]
fn line_ends_blank_lines_and_marks_at_the_start_do_not_matter() {
    let expected = {
        let (_dir, path) = file(format!("{GOOD}\n{GOOD}\n").as_bytes());
        hellaswag::read(&path).unwrap()
    };
    for text in [
        format!("{GOOD}\r\n{GOOD}\r\n"),
        format!("{GOOD}\n{GOOD}"),
        format!("\u{feff}{GOOD}\n\n  \r\n{GOOD}\n\n"),
        format!("{GOOD}\n{}\n", GOOD.replace("2}", "\"2\", \"ctx_a\": null}")),
    ] {
        let (_dir, path) = file(text.as_bytes());
        assert_eq!(hellaswag::read(&path).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn lines_that_are_no_items_are_named() {
    let changed = |from: &str, to: &str| format!("{GOOD}\n\n{}\n", GOOD.replace(from, to)).into_bytes();
    for (bytes, expected) in [
        (changed("\"ctx\"", "\"context\""), "has no key \"ctx\""),
        (changed("\"He\"", "null"), "has no key \"ctx\""),
        (changed("\"He\"", "7"), "\"ctx\" is a number, expected a text"),
        (changed("\"He\"", "\"  \""), "\"ctx\" is empty, expected a text"),
        (changed("\"endings\"", "\"ends\""), "has no key \"endings\""),
        (changed("\"b\", ", ""), "\"endings\" is a list of 3, expected a list of 4 texts"),
        (changed("\"b\", ", "\"b\", \"b\", "), "\"endings\" is a list of 5, expected a list of 4 texts"),
        (changed("\"b\"", "\"\""), "\"endings\" is a list with an empty text, expected a list of 4 texts"),
        (
            changed("\"b\"", "\" \\n\""),
            "\"endings\" is a list with an empty text, expected a list of 4 texts",
        ),
        (changed("\"b\"", "{}"), "\"endings\" is a list with an object, expected a list of 4 texts"),
        (
            changed("[\"a\", \"b\", \"c\", \"d\"]", "true"),
            "\"endings\" is true or false, expected a list of 4 texts",
        ),
        (changed("2}", "4}"), "\"label\" is 4, expected a number from 0 to 3"),
        (changed("2}", "-1}"), "\"label\" is -1, expected a number from 0 to 3"),
        (changed("2}", "1.5}"), "\"label\" is 1.5, expected a number from 0 to 3"),
        (changed("2}", "\"\"}"), "\"label\" is \"\", expected a number from 0 to 3"),
        (changed("2}", "2, \"ctx_a\": []}"), "\"ctx_a\" is a list, expected a text"),
    ] {
        let (message, hint) = refused(&bytes, hellaswag::read);
        let place = if expected.starts_with('"') { "x.jsonl: line 3: " } else { "x.jsonl: line 3 " };
        assert_eq!(message, format!("{place}{expected}"));
        assert_eq!(hint, "use the file as it is published, and the task that it is for");
    }
}

#[test]
fn a_set_without_labels_is_told_from_a_damaged_one() {
    let (message, hint) = refused(GOOD.replace(", \"label\": 2", "").as_bytes(), hellaswag::read);
    assert_eq!(message, "x.jsonl: line 1 has no key \"label\"");
    assert!(hint.contains("hellaswag_val.jsonl"), "{hint}");
}

#[test]
fn lines_that_are_no_json_are_named() {
    for (line, expected) in [
        ("{\"ctx\": ", "EOF while parsing a value at column 8"),
        ("[1]", "invalid type: sequence, expected a map at column 0"),
        ("text", "expected ident at column 2"),
        ("{} {}", "trailing characters at column 4"),
    ] {
        let (message, hint) = refused(format!("{GOOD}\n{line}\n").as_bytes(), hellaswag::read);
        assert_eq!(message, format!("x.jsonl: line 2 is not a JSON object: {expected}"));
        assert!(hint.contains("download the file again"));
    }
    let (message, hint) = refused(&[GOOD.as_bytes(), b"\n{\"ctx\": \"\xff\"}"].concat(), hellaswag::read);
    assert_eq!(message, "x.jsonl: line 2 is not UTF-8");
    assert!(hint.contains("text file"));
}

#[test]
fn files_without_anything_are_named() {
    for bytes in ["", "\n \r\n", "\u{feff}"] {
        let (message, hint) = refused(bytes.as_bytes(), hellaswag::read);
        assert_eq!(message, "x.jsonl has no items");
        assert!(hint.contains("download the file again"));
        assert_eq!(refused(bytes.as_bytes(), lambada::read).0, "x.jsonl has no items");
    }
    assert_eq!(refused(b"\n \n", wikitext::read).0, "x.jsonl has no text");
    assert_eq!(refused(b"a\nb\xff\n", wikitext::read).0, "x.jsonl: line 2 is not UTF-8");
    let error = hellaswag::read("/nowhere/x.jsonl".as_ref()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/x.jsonl"), "{error}");
    let error = hellaswag::read("/".as_ref()).unwrap_err();
    assert_eq!(error.hint().unwrap(), "name the file in it");
}

#[test]
fn passages_are_cut_before_their_last_word() {
    for (text, context, word) in [
        ("he said to her", "he said to", "her"),
        (" a  b \\n", "a", "b"),
        ("one\\ntwo three", "one\\ntwo", "three"),
        ("an end .", "an end", "."),
    ] {
        let (_dir, path) = file(format!("{{\"text\": \"{text}\"}}\n").as_bytes());
        let passages = lambada::read(&path).unwrap();
        let context = context.replace("\\n", "\n");
        assert_eq!((passages[0].context.as_str(), passages[0].word.as_str()), (context.as_str(), word));
    }
    for (line, expected) in [
        (r#"{"text": "word"}"#, ": \"text\" is a single word, expected a context, a space, and a last word"),
        (r#"{"text": ""}"#, ": \"text\" is empty, expected a text"),
        (r#"{"ctx": "a b"}"#, " has no key \"text\""),
    ] {
        assert_eq!(refused(line.as_bytes(), lambada::read).0, format!("x.jsonl: line 1{expected}"));
    }
}
