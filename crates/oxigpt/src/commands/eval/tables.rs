//! Scores on tasks as people read them.

use std::fmt::Display;

use oxigpt_eval::tasks::hellaswag::{Protocol, REFERENCES, Reference, Scores};
use oxigpt_eval::tasks::{Accuracy, HellaSwag, Lambada, WikiText};

use crate::report::thousands;

/// Both definitions, and what is published of known models.
pub(super) fn hellaswag(found: &HellaSwag) -> String {
    let mut table = format!("{:23}{:30}{:8}{:18}right\n", "definition", "measure", "value", "95 % interval");
    if let Some(scores) = &found.build_nanogpt {
        table += &definition(Protocol::BuildNanoGpt, scores);
    }
    if let Some(scores) = &found.lm_eval {
        table += &definition(Protocol::LmEval, scores);
    }
    if let Some(missing) = found.lm_eval_missing {
        table += &format!(
            "{:23}not possible: {} of {} items have {missing}\n",
            name(Protocol::LmEval),
            thousands(missing.items),
            thousands(found.items),
        );
    }
    let heading = format!(
        "\n{:23}{:13}{:8}{:10}source, of all 10,042 items\n",
        "published", "model", "acc", "acc_norm"
    );
    REFERENCES.iter().map(reference).fold(table + &heading, |table, row| table + &row)
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::BuildNanoGpt => "build-nanogpt",
        Protocol::LmEval => "lm-evaluation-harness",
    }
}

fn definition(protocol: Protocol, scores: &Scores) -> String {
    let unit = match protocol {
        Protocol::BuildNanoGpt => "token",
        Protocol::LmEval => "character",
    };
    let name = name(protocol);
    let mut rows = format!("{name:23}{:30}{}\n", "acc (sum of losses)", accuracy(scores.acc));
    rows += &format!("{name:23}{:30}{}\n", format!("acc_norm (loss per {unit})"), accuracy(scores.acc_norm));
    if scores.truncated > 0 {
        rows += &format!("{name:23}contexts cut to fit: {}\n", thousands(scores.truncated));
    }
    rows
}

fn accuracy(accuracy: Accuracy) -> String {
    let [low, high] = accuracy.interval();
    let (correct, items) = (thousands(accuracy.correct), thousands(accuracy.items));
    format!("{:<8.4}{low:.4} - {high:.4}   {correct} of {items}", accuracy.value())
}

fn reference(Reference { model, protocol, acc, acc_norm, source }: &Reference) -> String {
    let definition = protocol.map_or("its own", name);
    let acc = acc.map_or("-".to_owned(), |acc| format!("{acc:.4}"));
    format!("{definition:23}{model:13}{acc:8}{acc_norm:<10.4}{source}\n")
}

/// Last words.
pub(super) fn lambada(found: &Lambada) -> String {
    let Accuracy { correct, items } = found.acc;
    let [low, high] = found.acc.interval();
    let value = found.acc.value();
    rows(&[
        ("accuracy", &format!("{value:.4}, {} of {}", thousands(correct), thousands(items))),
        ("95 % interval", &format!("{low:.4} - {high:.4}")),
        (
            "perplexity",
            &format!("{:.2} per last word, {:.2} per token", found.perplexity(), found.token_perplexity()),
        ),
        ("over", &format!("{} tokens of last words", thousands(found.tokens))),
        ("cut to fit", &format!("{} contexts", thousands(found.truncated))),
    ])
}

/// A text.
pub(super) fn wikitext(found: &WikiText) -> String {
    let (tokens, words, bytes) = (thousands(found.tokens), thousands(found.words), thousands(found.bytes));
    rows(&[
        ("loss", &format!("{:.4} nats per token", found.loss)),
        (
            "perplexity",
            &format!("{:.2} per token, {:.2} per word", found.perplexity(), found.word_perplexity()),
        ),
        ("bits per byte", &format!("{:.4}", found.bits_per_byte())),
        ("over", &format!("{tokens} tokens, {words} words, {bytes} bytes, as they stand")),
    ])
}

fn rows(rows: &[(&str, &dyn Display)]) -> String {
    rows.iter().map(|(label, value)| format!("{label:15}{value}\n")).collect()
}
