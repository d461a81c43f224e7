//! Measures GPT-2 encoding: `cargo run --release -p oxigpt-text --example encode -- FILE [THREADS]` prints one JSON
//! object with the tokens of the file and the bytes encoded per second, the median of several rounds. `--ranks` in place
//! of these prints every ordinary token's bytes in hexadecimal, in order of rank, for `bench/tokenizing.py`.
#![allow(clippy::print_stdout, reason = "the numbers are what it is for")]

use std::error::Error;
use std::time::Instant;

use fs_err as fs;
use oxigpt_text::Tokenizer;

/// The text is encoded as documents of about this many bytes, which texts of the web have.
const DOCUMENT: usize = 4096;

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: encode FILE [THREADS] | encode --ranks")?;
    if path == "--ranks" {
        print_ranks();
        return Ok(());
    }
    let threads: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let text = fs::read_to_string(path)?;
    let documents = documents(&text);
    let mut tokens = 0;
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            tokens = encode_all(&documents, threads.max(1));
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let bytes = text.len();
    let rate = bytes as f64 / seconds[ROUNDS / 2];
    println!(r#"{{"bytes": {bytes}, "tokens": {tokens}, "threads": {threads}, "bytes_per_s": {rate:.0}}}"#);
    Ok(())
}

fn print_ranks() {
    let gpt2 = Tokenizer::gpt2();
    for id in 0..50_256 {
        let hex: String = gpt2.decode_bytes(&[id]).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{hex}");
    }
}

/// `text` cut at the line end after every [`DOCUMENT`] bytes.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line_end = rest.bytes().skip(DOCUMENT).position(|byte| byte == b'\n');
        let end = line_end.map_or(rest.len(), |at| DOCUMENT + at + 1);
        let (document, after) = rest.split_at(end);
        documents.push(document);
        rest = after;
    }
    documents
}

/// Encodes all documents on `threads` threads, each a share of them, and counts the tokens.
fn encode_all(documents: &[&str], threads: usize) -> usize {
    let share = documents.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            documents.chunks(share).map(|share| scope.spawn(move || count_tokens(share))).collect();
        workers.into_iter().map(|worker| worker.join().expect("encoding does not panic")).sum()
    })
}

fn count_tokens(documents: &[&str]) -> usize {
    let tokenizer = Tokenizer::gpt2();
    let mut ids = Vec::new();
    let count = |document: &&str| {
        ids.clear();
        tokenizer.encode_into(document, &mut ids).expect("GPT-2 encodes any text");
        ids.len()
    };
    documents.iter().map(count).sum()
}
