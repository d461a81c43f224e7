//! The list of recipes.

use std::process::Stdio;

use crate::support::{Place, run};
use insta::assert_snapshot;

#[test]
fn list() {
    assert_snapshot!(run(&["recipes"]), @"
    exit 0
    --- stdout
    demo                          A small GPT learns to tell stories, on any laptop, in under three minutes.
    overfit                       One small batch, learned by heart: the first test of any training loop.
    shakespeare-char-cpu          nanoGPT's Tiny Shakespeare run, its flags for a cheap computer: 0.8 million parameters.
    shakespeare-char              nanoGPT's Tiny Shakespeare run, its settings for a GPU: 10.6 million parameters.
    train-11                      One layer, one head, as wide as GPT-2: the smallest GPT in which attention can be studied.
    gpt2-124m                     GPT-2 124M on ten billion tokens of FineWeb-Edu, as build-nanogpt trains it.
    finetune                      A model that is there goes on learning, from a text of your own.
    finetune-shakespeare          nanoGPT's fine-tuning of GPT-2 1558M on Tiny Shakespeare.
    gaussian-from-gpt2            OpenAI's GPT-2 124M tuned into a model whose attention is a Gaussian kernel instead of a softmax.
    pointwise-from-gpt2           OpenAI's GPT-2 124M tuned into a model whose attention is a GELU of each score instead of a softmax.
    gaussian-lora-from-gpt2       GPT-2 with Gaussian attention, tuned by low-rank adapters on its attention; the weights stay OpenAI's.
    gaussian-layerwise-from-gpt2  GPT-2 with Gaussian attention that learns, layer by layer, what softmax attention gives.
    eval-gpt2                     How well OpenAI's GPT-2 124M predicts OpenWebText, as nanoGPT measures it.
    eval-gpt2-medium              How well OpenAI's GPT-2 350M predicts OpenWebText, as nanoGPT measures it.
    eval-gpt2-large               How well OpenAI's GPT-2 774M predicts OpenWebText, as nanoGPT measures it.
    eval-gpt2-xl                  How well OpenAI's GPT-2 1558M predicts OpenWebText, as nanoGPT measures it.
    --- stderr
    ");
}

#[test]
fn one_is_printed_as_it_is() {
    let output = Place::new().output(&["recipes", "gpt2-124m"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, include_bytes!("../../../../configs/gpt2-124m.toml"));
}

#[test]
fn unknown() {
    assert_snapshot!(run(&["recipes", "shakespear-char"]), @"
    exit 2
    --- stdout
    --- stderr
    error: unknown recipe `shakespear-char`; there are demo, overfit, shakespeare-char-cpu, shakespeare-char, train-11, gpt2-124m, finetune, finetune-shakespeare, gaussian-from-gpt2, pointwise-from-gpt2, gaussian-lora-from-gpt2, gaussian-layerwise-from-gpt2, eval-gpt2, eval-gpt2-medium, eval-gpt2-large, eval-gpt2-xl
    hint: did you mean `shakespeare-char`?
    ");
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("oxigpt"))
        .arg("recipes")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
