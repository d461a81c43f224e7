//! `oxigpt bench`: how fast this machine trains and samples a model of given shape, and where the time goes; and how fast
//! it encodes text.

mod tokenize;

use std::io::{self, Write};

use anyhow::Result;
use oxigpt_data::{DatasetError, Error as DataError};
use oxigpt_model::Error as ModelError;
use oxigpt_train::bench::{Part, Steps, time_decoding, time_steps};
use oxigpt_train::settings::Settings;
use oxigpt_train::{Error, fit_to, machine, planned_vocab_size};
use serde_json::{Value, json};

use crate::cli::{BenchArgs, BenchKind};
use crate::configure;
use crate::hint::CliError;
use crate::report::{bytes, metric, thousands};

/// GPT-2's words, where nothing says how many there are.
const GPT2_WORDS: usize = 50257;

/// Steps, or tokens, where none are asked for.
const STEPS: usize = 10;
const TOKENS: usize = 200;

/// Measures, and prints a table or one JSON object.
pub(crate) fn run(kind: &BenchKind) -> Result<()> {
    let (as_json, (text, json)) = match kind {
        BenchKind::Train(args) => (args.json, train(args, summary)?),
        BenchKind::Ops(args) => (args.json, train(args, operators)?),
        BenchKind::Sample(args) => (args.bench.json, sample(&args.bench, args.texts.get())?),
        BenchKind::Tokenize(args) => (args.json, tokenize::time(args)?),
    };
    let text = if as_json { format!("{json}\n") } else { text };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// What the configuration says, and the size of the vocabulary.
fn configured(args: &BenchArgs) -> Result<(Settings, usize)> {
    let settings = configure::settings(&args.config)?;
    let vocab_size = match planned_vocab_size(&settings) {
        Err(Error::Data(DataError::Dataset(DatasetError::NoSuchDataset { .. }))) => GPT2_WORDS,
        vocab_size => vocab_size?,
    };
    let machine = settings.machine();
    Ok((fit_to(settings, vocab_size, None, &machine)?, vocab_size))
}

/// Times steps; `table` says what of them to print.
fn train(args: &BenchArgs, table: impl Fn(&Steps, f64) -> String) -> Result<(String, Value)> {
    let (settings, vocab_size) = configured(args)?;
    let n_steps = args.steps.map_or(STEPS, |steps| steps.get() as usize);
    let peak = settings.machine().measure_flops(settings.precision())?;
    let steps = time_steps(&settings, vocab_size, (args.warmup, n_steps))?;
    let head = format!(
        "{} layers, {} heads, width {}, {} x {} tokens, vocabulary {}, {}, {}\n\n",
        settings.n_layer,
        settings.n_head,
        settings.n_embd,
        settings.batch_size.rows(),
        settings.block_size,
        thousands(vocab_size as u64),
        settings.dtype,
        settings.machine().name(),
    );
    Ok((head + &table(&steps, peak), json_of(&steps, peak)))
}

fn summary(steps: &Steps, peak: f64) -> String {
    let (ms, flops) = (steps.median_ms(), steps.cost().flops);
    let last = steps.step_ms.last().copied().unwrap_or(ms);
    let mut rows = vec![
        format!(
            "step             {ms:>10.2} ms ({:.2} to {last:.2}, {} steps)\n",
            steps.step_ms[0],
            steps.step_ms.len()
        ),
        format!("speed            {:>10} tokens/s\n", thousands((steps.tokens as f64 / ms * 1e3) as u64)),
        format!(
            "products         {:>10.1} GFLOP/s, {:.0} % of {} measured just now\n",
            flops / ms / 1e6,
            flops / ms * 1e5 / peak,
            metric(peak, "FLOP/s")
        ),
        format!("memory           {:>14}\n", bytes(steps.memory_bytes as f64)),
    ];
    rows.extend(steps.attention.iter().map(|who| format!("attention        by {who}\n")));
    rows.extend(peak_memory().map(|peak| format!("peak memory      {:>14}\n", bytes(peak))));
    rows.push("\n".into());
    rows.extend(Part::ALL.map(|part| format!("{:17}{:>10.2} ms\n", part.name(), steps.part_ms(part))));
    rows.concat()
}

fn operators(steps: &Steps, peak: f64) -> String {
    let mut text = format!(
        "{:28}{:12}{:>10}{:>12}{:>10}{:>10}\n",
        "operator", "part", "ms", "GFLOP/s", "of peak", "GB/s"
    );
    for op in &steps.ops {
        let share = format!("{:.0} %", op.cost.flops / op.ms * 1e5 / peak);
        let of_flops = |text: String| if op.cost.flops > 0.0 { text } else { String::new() };
        text += &format!(
            "{:28}{:12}{:>10.3}{:>12}{:>10}{:>10.1}\n",
            op.name,
            op.part.name(),
            op.ms,
            of_flops(format!("{:.1}", op.cost.flops / op.ms / 1e6)),
            of_flops(share),
            op.cost.bytes / op.ms / 1e6
        );
    }
    text
}

fn json_of(steps: &Steps, peak: f64) -> Value {
    let ms = steps.median_ms();
    let parts: serde_json::Map<_, _> =
        Part::ALL.iter().map(|&part| (format!("{}_ms", part.name()), json!(steps.part_ms(part)))).collect();
    let op = |op: &oxigpt_train::bench::OpShare| {
        let (gflops, gbytes) = (op.cost.flops / op.ms / 1e6, op.cost.bytes / op.ms / 1e6);
        json!({ "name": op.name, "part": op.part.name(), "ms": op.ms, "gflops": gflops, "of_peak": gflops * 1e9 / peak, "gbytes_per_s": gbytes })
    };
    let gflops = steps.cost().flops / ms / 1e6;
    json!({
        "tokens_per_s": steps.tokens as f64 / ms * 1e3,
        "step_ms": ms,
        "step_ms_min": steps.step_ms[0],
        "step_ms_max": steps.step_ms.last(),
        "gflops": gflops,
        "of_peak": gflops * 1e9 / peak,
        "peak_gflops": peak / 1e9,
        "memory_bytes": steps.memory_bytes,
        "peak_memory_bytes": peak_memory(),
        "attention": steps.attention,
        "parts": parts,
        "ops": steps.ops.iter().map(op).collect::<Vec<_>>(),
    })
}

fn sample(args: &BenchArgs, texts: usize) -> Result<(String, Value)> {
    let (settings, vocab_size) = configured(args)?;
    let n_steps = args.steps.map_or(TOKENS, |steps| steps.get() as usize);
    let decoding =
        time_decoding(&settings, vocab_size, texts, n_steps).map_err(|error| too_much(error, texts))?;
    let (ms, cost) = (decoding.median_ms(), decoding.cost);
    let text = format!(
        "token            {ms:>10.3} ms ({:.3} to {:.3}, {n_steps} tokens, {}, {})\n\
         speed            {:>10.1} tokens/s\n\
         memory traffic   {:>10.1} GB/s\n\
         prompt           {:>10.2} ms for {} tokens\n\
         memory           {:>14}\n",
        decoding.step_ms[0],
        decoding.step_ms.last().copied().unwrap_or(ms),
        if texts == 1 { "one text".to_owned() } else { format!("{texts} texts side by side") },
        settings.dtype,
        decoding.tokens_per_s(),
        cost.bytes / ms / 1e6,
        decoding.prompt_ms,
        decoding.prompt_tokens,
        bytes(decoding.memory_bytes as f64),
    );
    let json = json!({
        "tokens_per_s": decoding.tokens_per_s(),
        "step_ms": ms,
        "step_ms_min": decoding.step_ms[0],
        "step_ms_max": decoding.step_ms.last(),
        "texts": texts,
        "gflops": cost.flops / ms / 1e6,
        "gbytes_per_s": cost.bytes / ms / 1e6,
        "prompt_ms": decoding.prompt_ms,
        "memory_bytes": decoding.memory_bytes,
        "peak_memory_bytes": peak_memory(),
    });
    Ok((text, json))
}

/// The error, with another hint where many texts are what the machine is too small for.
fn too_much(error: Error, texts: usize) -> anyhow::Error {
    match error {
        Error::Memory { .. } | Error::Model(ModelError::TooLarge { .. }) if texts > 1 => {
            CliError::failure(error.to_string(), "lower --texts").into()
        }
        error => error.into(),
    }
}

fn peak_memory() -> Option<f64> {
    machine::peak_memory().map(|bytes| bytes as f64)
}
