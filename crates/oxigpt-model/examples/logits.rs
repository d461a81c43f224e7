//! Prints the logits of a model after every token of some rows, to compare them with another program's.
//!
//! `cargo run --release -p oxigpt-model --example logits -- MODEL < rows.json`, where MODEL is anything that
//! `open_pretrained` reads and the rows are `[[1, 2, 3], [4, 5, 6]]`. Printed is `[[[...], ...], ...]`: by row, by
//! position, by word. They come through the cache of keys and values, a token at a time, as when a text is generated.

use std::error::Error;
use std::io::{self, Write};

use oxigpt_compute::Session;
use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_model::{DecodeShape, decode_plan, open_pretrained};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected the path of a model")?;
    let rows: Vec<Vec<u32>> = serde_json::from_reader(io::stdin().lock())?;
    let model = open_pretrained(path)?;
    let (plan, table, decoder) = decode_plan(&model.config, &DecodeShape::one(&model.config))?;
    let mut session = Session::new(plan, Box::new(Cpu::new(CpuOptions::all_cores())?))?;
    table.upload(&mut session, &model.weights)?;
    let mut all = Vec::new();
    for row in &rows {
        let mut of_row = Vec::new();
        for fed in 1..=row.len() {
            let mut logits = Vec::new();
            decoder.decode(&mut session, &[&row[..fed]], &mut logits)?;
            of_row.push(logits);
        }
        all.push(of_row);
    }
    serde_json::to_writer(io::stdout().lock(), &all)?;
    Ok(writeln!(io::stdout())?)
}
