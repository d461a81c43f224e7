//! WikiText: every token is a target once.

use std::ops::ControlFlow;

use oxigpt_eval::tasks::wikitext::{WikiText, wikitext};
use oxigpt_model::{ModelConfig, eval_plan};
use oxigpt_text::Tokenizer;

use crate::support::{Plain, assert_close, cpu, model, session, tokenizer};

const TEXT: &str =
    " = Robert <unk> = \n \n Robert <unk> is an English film , television and theatre actor . \n";

/// Scores `TEXT` in passes of `batch_size`; gives what `progress` heard, too, which breaks off after so many windows.
fn run(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    batch_size: usize,
    until: Option<u64>,
) -> (Option<WikiText>, Vec<(u64, u64)>) {
    let (plan, table, pass) = eval_plan(config, batch_size, config.block_size, None).unwrap();
    let mut session = session(config, plan, &table, cpu(2));
    let mut heard = Vec::new();
    let found = wikitext(&mut session, &pass, tokenizer, TEXT, &mut |done, windows| {
        heard.push((done, windows));
        if Some(done) == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (found.unwrap(), heard)
}

/// Mean loss of all targets, window by window.
fn expected(config: &ModelConfig, stream: &[u32]) -> f64 {
    let mut plain = Plain::new(config);
    let starts = (0..stream.len() - 1).step_by(config.block_size);
    let windows = starts.map(|start| &stream[start..stream.len().min(start + config.block_size + 1)]);
    let losses: Vec<f64> = windows.flat_map(|window| plain.losses(window)).collect();
    assert_eq!(losses.len(), stream.len() - 1);
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn losses_are_those_of_plain_passes() {
    let tokenizer = tokenizer_with_line_ends();
    let config = model(16, tokenizer.vocab_size());
    let stream = tokenizer.encode(TEXT).unwrap();
    let expected = expected(&config, &stream);
    for (batch_size, told) in [(1, 6), (2, 3), (4, 2), (9, 1)] {
        let (found, heard) = run(&config, &tokenizer, batch_size, None);
        let found = found.unwrap();
        assert_close(found.loss, expected, 1e-6);
        // Nothing stands before the first character, a space.
        assert_eq!(
            (found.tokens, found.bytes, found.words),
            (TEXT.len() as u64 - 1, TEXT.len() as u64 - 1, 16)
        );
        assert_close(found.perplexity(), expected.exp(), 1e-5);
        let bits = expected * found.tokens as f64;
        assert_close(found.word_perplexity(), (bits / 16.0).exp(), 1e-4);
        assert_close(found.bits_per_byte(), expected / 2f64.ln(), 1e-6);
        assert_eq!((heard.len(), heard[heard.len() - 1]), (told, (6, 6)));
    }
}

fn tokenizer_with_line_ends() -> Tokenizer {
    Tokenizer::chars_of(&("\n".to_owned() + &(' '..='~').collect::<String>())).unwrap()
}

/// Behind the token that ends texts, the first token is a target, too.
#[test]
fn all_bytes_count_where_texts_have_an_end() {
    let tokenizer = Tokenizer::gpt2();
    let config = ModelConfig { n_layer: 1, n_embd: 4, ..model(16, tokenizer.vocab_size()) };
    let (found, heard) = run(&config, &tokenizer, 2, None);
    let found = found.unwrap();
    let stream = [vec![50256], tokenizer.encode(TEXT).unwrap()].concat();
    assert_close(found.loss, expected(&config, &stream), 1e-6);
    assert_eq!((found.tokens, found.bytes), (stream.len() as u64 - 1, TEXT.len() as u64));
    assert_eq!(heard, [(2, 2)]);
    let json = serde_json::to_value(found).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["bits_per_byte", "bytes", "loss", "perplexity", "tokens", "word_perplexity", "words"]);
    assert_eq!(json["word_perplexity"], found.word_perplexity());
}

#[test]
fn an_evaluation_that_is_broken_off_has_no_result() {
    let tokenizer = tokenizer_with_line_ends();
    let config = model(16, tokenizer.vocab_size());
    assert_eq!(run(&config, &tokenizer, 2, Some(4)), (None, vec![(2, 6), (4, 6)]));
}

#[test]
fn texts_that_cannot_be_scored_are_told() {
    let config = model(16, tokenizer().vocab_size());
    let (plan, table, pass) = eval_plan(&config, 1, 16, None).unwrap();
    let mut session = session(&config, plan, &table, cpu(1));
    let mut refused = |text: &str| {
        let found = wikitext(&mut session, &pass, &tokenizer(), text, &mut |_, _| ControlFlow::Continue(()));
        let error = found.unwrap_err();
        (error.to_string(), error.hint().unwrap())
    };
    for text in ["a", ""] {
        let (message, hint) = refused(text);
        assert_eq!(message, "the text has no token that another stands before");
        assert_eq!(hint, "name a longer text");
    }
    assert!(refused("\u{e9}").0.contains("cannot be put into tokens"));
}
