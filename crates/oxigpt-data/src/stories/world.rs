//! Reads `world.txt` (its head explains the notation) and expands its rules.

use std::collections::BTreeMap;

use super::{Dice, Slots};

/// A row of a table: values by the names of the columns; the value under `""` is what a bare `{X}` gives.
pub(crate) type Row = BTreeMap<&'static str, String>;

/// The tables and the rules.
pub(crate) struct World {
    tables: BTreeMap<&'static str, Vec<Row>>,
    rules: BTreeMap<&'static str, Vec<&'static str>>,
}

impl World {
    /// The world of `world.txt`.
    pub(crate) fn embedded() -> World {
        let mut world = World { tables: BTreeMap::new(), rules: BTreeMap::new() };
        let text = include_str!("world.txt");
        let lines: Vec<&'static str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let is_head = |line: &&str| line.starts_with("table ") || line.starts_with("rule ");
        let mut rest = &lines[..];
        while let Some((head, after)) = rest.split_first() {
            let end = after.iter().position(is_head).unwrap_or(after.len());
            let body = &after[..end];
            match head.split_once(' ') {
                Some(("table", name)) => world.tables.insert(name, read_table(body)).map(drop),
                Some((_, name)) => world.rules.insert(name, body.to_vec()).map(drop),
                None => None,
            };
            rest = &after[end..];
        }
        world
    }

    /// The rows of a table.
    pub(crate) fn table(&self, name: &str) -> &[Row] {
        &self.tables[name]
    }

    /// Every rule with its lines.
    #[cfg(test)]
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&'static str, &[&'static str])> {
        self.rules.iter().map(|(name, lines)| (*name, &lines[..]))
    }

    /// What `template` says, where `dice` decide between the ways to say it.
    pub(crate) fn expand(&self, template: &str, slots: &Slots, dice: &mut Dice) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some(open) = rest.find(['<', '{', '(']) {
            out += &rest[..open];
            let close = match &rest[open..=open] {
                "<" => '>',
                "{" => '}',
                _ => ')',
            };
            let length = rest[open..].find(close).expect("a test expands every line of the embedded rules");
            let inner = &rest[open + 1..open + length];
            out += &match close {
                '}' => reference(inner, slots),
                ')' => {
                    let options: Vec<&str> = inner.split('|').collect();
                    self.expand(dice.pick::<&str>(&options), slots, dice)
                }
                _ => {
                    with_case_of(inner, |name| self.expand(dice.pick::<&str>(&self.rules[name]), slots, dice))
                }
            };
            rest = &rest[open + length + 1..];
        }
        out + rest
    }
}

/// A table's first line names its columns; the first of them is also what a bare reference gives.
fn read_table(lines: &[&'static str]) -> Vec<Row> {
    let cells = |line: &'static str| line.split('|').map(str::trim);
    let Some((head, rows)) = lines.split_first() else { return Vec::new() };
    let row = |line: &&'static str| {
        let mut row: Row = cells(head).zip(cells(line).map(String::from)).collect();
        let first = cells(line).next().unwrap_or_default();
        row.insert("", first.into());
        if let Some(he) = row.get("he") {
            let [him, his] = if he == "he" { ["him", "his"] } else { ["her", "her"] };
            row.extend([("him", him.into()), ("his", his.into())]);
        }
        row
    };
    rows.iter().map(row).collect()
}

/// `X`, `X.field` or `X.Field`, with `a ` or `A ` in front for the article, or `Cap ` for a capital.
fn reference(inner: &str, slots: &Slots) -> String {
    let (article, inner) = match inner.split_once(' ') {
        Some((article, inner)) => (Some(article), inner),
        None => (None, inner),
    };
    let (slot, field) = inner.split_once('.').unwrap_or((inner, ""));
    let row = slots.get(slot);
    let value = with_case_of(field, |field| row[field].clone());
    match article {
        Some("Cap") => capitalized(&value),
        Some(article) if value.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("{article}n {value}"),
        Some(article) => format!("{article} {value}"),
        None => value,
    }
}

/// What `make` makes of the name in lower case, with a capital if the name has one.
fn with_case_of(name: &str, make: impl FnOnce(&str) -> String) -> String {
    let made = make(&name.to_lowercase());
    if name.starts_with(char::is_uppercase) { capitalized(&made) } else { made }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
