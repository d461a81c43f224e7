//! Compares GPT-2's encoding with tiktoken-rs, a port of OpenAI's own, on much text: the given files whole, and then made-up
//! text of every script, with excerpts of the files in it, until so many megabytes are compared.
//! `cargo run --release -p oxigpt-text --example agree -- MEGABYTES [FILE]...`
#![allow(clippy::print_stdout, reason = "the result is what it is for")]

use std::error::Error;

use fs_err as fs;
use oxigpt_text::Tokenizer;
use tiktoken_rs::r50k_base_singleton;

/// What stands between words, and what GPT-2's pattern treats in a way of its own.
const PARTS: [&str; 24] = [
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u{A0}",
    "\u{3000}",
    "'s",
    "'ll",
    "'S",
    "'",
    "’t",
    ", ",
    ". ",
    "\u{200D}",
    "\u{FE0F}",
    "\u{301}",
    "\0",
    "<|endoftext|>",
    "42",
    "...",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let megabytes: usize = arguments.next().ok_or("usage: agree MEGABYTES [FILE]...")?.parse()?;
    let files = arguments.map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let (mut bytes, mut tokens) = (0, 0);
    for text in &files {
        tokens += compared(text)?;
        bytes += text.len();
    }
    let mut random = Random(1);
    while bytes < megabytes << 20 {
        let text = document(&mut random, &files);
        tokens += compared(&text)?;
        bytes += text.len();
    }
    println!("{bytes} bytes, {tokens} tokens: no difference");
    Ok(())
}

/// The number of tokens of `text`, which both encoders must give alike.
fn compared(text: &str) -> Result<usize, Box<dyn Error>> {
    let ids = Tokenizer::gpt2().encode(text)?;
    if ids != r50k_base_singleton().encode_ordinary(text) {
        return Err(format!("the encodings differ: {text:?}").into());
    }
    Ok(ids.len())
}

/// A document of words of a few scripts, runs of one character, and excerpts of `files`.
fn document(random: &mut Random, files: &[String]) -> String {
    let blocks: Vec<u32> = (0..1 + random.below(4)).map(|_| block(random)).collect();
    let mut text = String::new();
    while text.len() < 4096 {
        match random.below(16) {
            0 => text.push_str(&run(random, blocks[0])),
            1 if !files.is_empty() => text.push_str(excerpt(random, files)),
            2..8 => text.push_str(PARTS[random.below(PARTS.len())]),
            _ => {
                let block = blocks[random.below(blocks.len())];
                text.extend((0..1 + random.below(9)).filter_map(|_| char_of(random, block)));
            }
        }
    }
    text
}

/// A stretch of 128 characters, as of one script: Latin, any that begins below U+3400, or any that has characters.
fn block(random: &mut Random) -> u32 {
    let limit = [2, 104, 1608][random.below(3)];
    random.below(limit) as u32
}

fn char_of(random: &mut Random, block: u32) -> Option<char> {
    char::from_u32(128 * block + random.below(128) as u32)
}

fn run(random: &mut Random, block: u32) -> String {
    let unit = if random.below(2) == 0 { Some(' ') } else { char_of(random, block) };
    unit.into_iter().collect::<String>().repeat(1 + random.below(200))
}

fn excerpt<'a>(random: &mut Random, files: &'a [String]) -> &'a str {
    let file = &files[random.below(files.len())];
    let at = random.below(file.len().max(1));
    file.get(at..at + random.below(500)).unwrap_or_default()
}

/// Knuth's linear congruential generator of 64 bits.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
