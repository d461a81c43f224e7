//! Makes the two files in `assets/` that the tokenizer embeds. Run once, and again only when Unicode moves on:
//! `cargo run -p oxigpt-text --example make_tables -- crates/oxigpt-text/assets`
//!
//! The sources are development dependencies: tiktoken-rs for OpenAI's vocabulary, regex for the Unicode classes.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use fs_err as fs;
use regex::Regex;
use tiktoken_rs::r50k_base;

const N_BYTES: u32 = 256;
const N_ORDINARY: u32 = 50_256;

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args_os().nth(1).ok_or("usage: make_tables DIRECTORY")?;
    let directory = Path::new(&argument);
    fs::write(directory.join("gpt2_merges.bin"), merges()?)?;
    fs::write(directory.join("unicode_classes.bin"), unicode_classes()?)?;
    Ok(())
}

/// The 50,000 merges in order of rank, each the ids of its two halves as little-endian u16.
fn merges() -> Result<Vec<u8>, Box<dyn Error>> {
    let oracle = r50k_base()?;
    let tokens = (0..N_ORDINARY).map(|id| oracle.decode_bytes(&[id])).collect::<Result<Vec<_>, _>>()?;
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut out = Vec::new();
    for id in N_BYTES..N_ORDINARY {
        let halves = merge_below(&tokens[id as usize], id, &ranks);
        let [left, right] = halves[..] else { return Err(format!("token {id} is not one merge").into()) };
        out.extend(u16::try_from(left)?.to_le_bytes());
        out.extend(u16::try_from(right)?.to_le_bytes());
    }
    Ok(out)
}

/// What `token` is encoded to by the merges of rank under `limit` alone.
fn merge_below(token: &[u8], limit: u32, ranks: &HashMap<&[u8], u32>) -> Vec<u32> {
    let mut parts: Vec<&[u8]> = token.chunks(1).collect();
    let mut starts: Vec<usize> = (0..=token.len()).collect();
    loop {
        let joined =
            |i: usize| ranks.get(&token[starts[i]..starts[i + 2]]).copied().filter(|&rank| rank < limit);
        let best = (0..parts.len() - 1).filter_map(|i| joined(i).map(|rank| (rank, i))).min();
        let Some((_, i)) = best else { break };
        starts.remove(i + 1);
        parts = starts.windows(2).map(|ends| &token[ends[0]..ends[1]]).collect();
    }
    parts.iter().map(|part| ranks[part]).collect()
}

/// The runs of characters of one class, each `first character << 2 | class` as little-endian u32.
fn unicode_classes() -> Result<Vec<u8>, Box<dyn Error>> {
    let classes = [Regex::new(r"^\p{L}$")?, Regex::new(r"^\p{N}$")?, Regex::new(r"^\s$")?];
    let mut out = Vec::new();
    let mut previous = None;
    for c in '\0'..=char::MAX {
        let text = c.to_string();
        let class = classes.iter().position(|class| class.is_match(&text)).unwrap_or(classes.len());
        if previous != Some(class) {
            out.extend(((c as u32) << 2 | u32::try_from(class)?).to_le_bytes());
            previous = Some(class);
        }
    }
    Ok(out)
}
