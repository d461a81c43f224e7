//! The embedded default corpus: simple children's stories, told by a grammar (`world.txt`) over a small fixed cast. They
//! are made for a small model to learn from within minutes: few words, true English grammar, and facts that hold: a
//! name has one pronoun, kind and character in all stories, and within a story it stays the same who has, loses, finds
//! or gives what, and where.
//!
//! The same seed gives the same text, and each story is a pure function of the seed and its number.

#[cfg(test)]
mod tests;
mod world;

use oxigpt_compute::philox;
use world::{Row, World};

/// The seed of the corpus that `prepare_stories` writes.
pub const DEFAULT_STORIES_SEED: u64 = 1337;
/// Its size: enough that a few minutes of training do not see it often.
pub const DEFAULT_STORIES_BYTES: usize = 4_000_000;

/// Whole stories, at least `min_bytes` of them, with an empty line between each two.
pub fn stories(seed: u64, min_bytes: usize) -> String {
    let world = World::embedded();
    let mut text = String::with_capacity(min_bytes + 2048);
    for number in 0.. {
        if text.len() >= min_bytes {
            break;
        }
        if number > 0 {
            text.push('\n');
        }
        text += &story(&world, seed, number);
        text.push('\n');
    }
    text
}

/// Story `number` under `seed`, without a line break at its end.
fn story(world: &World, seed: u64, number: u64) -> String {
    let mut dice = Dice { seed, stream: number, throws: 0 };
    let slots = bind(world, &mut dice);
    // An optional sentence that was left out leaves its two spaces.
    world.expand("<story>", &slots, &mut dice).replace("  ", " ").replace(" / ", "\n")
}

/// Random choices, one after the other, for one story.
pub(crate) struct Dice {
    seed: u64,
    stream: u64,
    throws: u64,
}

impl Dice {
    /// A uniform number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        let words = philox::draw(self.seed, self.stream, self.throws);
        self.throws += 1;
        philox::below([words[0], words[1]], bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What the letters of the rules stand for in one story.
pub(crate) struct Slots(Vec<(&'static str, Row)>);

impl Slots {
    fn get(&self, name: &str) -> &Row {
        let found = self.0.iter().find(|(slot, _)| *slot == name);
        &found.expect("a test expands every line of the embedded rules").1
    }
}

/// Chooses who and what a story is about.
fn bind(world: &World, dice: &mut Dice) -> Slots {
    let cast = world.table("character");
    let a = dice.pick(cast).clone();
    let others: Vec<&Row> = cast.iter().filter(|b| b["he"] != a["he"]).collect();
    let b = (*dice.pick(&others)).clone();
    let rest: Vec<&Row> = cast.iter().filter(|c| ![&a["name"], &b["name"]].contains(&&c["name"])).collect();
    let c = (*dice.pick(&rest)).clone();

    let o = thing(world, dice, None);
    let r = thing(world, dice, Some(&o));
    let place = dice.pick(world.table("place")).clone();
    let spots: Vec<&str> = place["spots"].split(';').collect();
    let s = dice.below(spots.len());
    let t = (s + 1 + dice.below(spots.len() - 1)) % spots.len();
    let [s, t] = [s, t].map(|i| Row::from([("", spots[i].to_string())]));

    let mut slots = vec![("A", a), ("B", b), ("C", c), ("o", o), ("r", r), ("p", place), ("s", s), ("t", t)];
    for (slot, table) in [("n", "number"), ("x", "fear"), ("z", "young"), ("b", "building"), ("g", "plant")] {
        slots.push((slot, dice.pick(world.table(table)).clone()));
    }
    Slots(slots)
}

/// A thing with a color or another property, unlike `other` in both.
fn thing(world: &World, dice: &mut Dice, other: Option<&Row>) -> Row {
    let mut pick = |table: &str, key: &str| {
        let differs = |row: &&Row| other.is_none_or(|other| other[key] != row[key]);
        let rows: Vec<&Row> = world.table(table).iter().filter(differs).collect();
        (*dice.pick(&rows)).clone()
    };
    let (mut thing, color) = (pick("thing", "noun"), pick("color", "adj"));
    thing.insert("", format!("{} {}", color["adj"], thing["noun"]));
    thing.insert("adj", color["adj"].clone());
    thing
}
