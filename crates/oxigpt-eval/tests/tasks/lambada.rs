//! LAMBADA: last words beside plain passes, and greedy answers beside generation.

use std::ops::ControlFlow;

use oxigpt_compute::Session;
use oxigpt_eval::tasks::lambada::{Lambada, Passage, lambada};
use oxigpt_model::{DecodeShape, Decoder, ModelConfig, SampleOptions, decode_plan, generate};
use oxigpt_text::{CharTokenizer, Tokenizer};

use crate::support::{Plain, assert_close, cpu, go_on, model, session, tokenizer};

const BLOCK_SIZE: usize = 24;

fn config() -> ModelConfig {
    model(BLOCK_SIZE, tokenizer().vocab_size())
}

fn decoding(config: &ModelConfig) -> (Session, Decoder) {
    let (plan, table, decoder) = decode_plan(config, &DecodeShape::one(config)).unwrap();
    (session(config, plan, &table, cpu(2)), decoder)
}

fn passage(context: &str, word: &str) -> Passage {
    Passage { context: context.to_owned(), word: word.to_owned() }
}

fn run(passages: &[Passage]) -> Lambada {
    let (mut session, decoder) = decoding(&config());
    lambada(&mut session, &decoder, &tokenizer(), passages, &mut go_on).unwrap().unwrap()
}

#[test]
fn losses_are_those_of_plain_passes() {
    let passages =
        [passage("he said to", "her"), passage("a much longer passage", "indeed"), passage("a", "b")];
    let tokenizer = tokenizer();
    let mut plain = Plain::new(&config());
    let (mut sum, mut tokens) = (0.0, 0.0);
    for Passage { context, word } in &passages {
        let target = tokenizer.encode(&format!(" {word}")).unwrap();
        let context = tokenizer.encode(context).unwrap();
        let kept = context.len().min(BLOCK_SIZE + 1 - target.len());
        sum += plain.sum(&context[context.len() - kept..], &target);
        tokens += target.len() as f64;
    }
    let found = run(&passages);
    assert_close(found.loss, sum, 1e-6);
    assert_close(found.perplexity(), (sum / 3.0).exp(), 1e-5);
    assert_close(found.token_perplexity(), (sum / tokens).exp(), 1e-5);
    assert_eq!((found.acc.items, found.tokens, found.truncated), (3, tokens as u64, 1));
}

/// What the model itself would write is right, and with another last letter it is not.
#[test]
fn greedy_continuations_are_right() {
    let (mut session, decoder) = decoding(&config());
    let prompt = [5, 9, 17];
    let options =
        SampleOptions { temperature: 0.0, top_k: None, max_new_tokens: 3, seed: 1, stop: None, words: None };
    let greedy =
        generate(&mut session, &decoder, &prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    // The token that comes first is called a space, since all last words begin with one.
    let mut names: Vec<char> = (' '..='~').collect();
    names.swap(0, greedy[0] as usize);
    let tokenizer = Tokenizer::Char(CharTokenizer::new(names).unwrap());
    let context = tokenizer.decode(&prompt);
    let wrong = [greedy[1], (greedy[2] + 1) % 95];
    for (word, right) in [(&greedy[1..], 1), (&wrong, 0), (&greedy[1..2], 1)] {
        let passage = passage(&context, &tokenizer.decode(word));
        let found = lambada(&mut session, &decoder, &tokenizer, &[passage], &mut go_on).unwrap().unwrap();
        assert_eq!((found.acc.correct, found.tokens), (right, 1 + word.len() as u64));
    }
}

#[test]
fn what_is_done_is_told_and_can_be_broken_off() {
    let passages = [passage("a", "b"), passage("c", "d"), passage("e", "f")];
    let (mut session, decoder) = decoding(&config());
    let mut heard = Vec::new();
    let found = lambada(&mut session, &decoder, &tokenizer(), &passages, &mut |done| {
        heard.push(done);
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((found.unwrap(), heard), (None, vec![1, 2]));
}

#[test]
fn results_have_the_agreed_keys() {
    let found = serde_json::to_value(run(&[passage("a", "b")])).unwrap();
    let keys: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["acc", "correct", "interval", "items", "perplexity", "token_perplexity", "tokens", "truncated"];
    assert_eq!(keys, expected);
}

#[test]
fn passages_that_cannot_be_asked_are_named() {
    let (mut session, decoder) = decoding(&config());
    let mut refused = |tokenizer: &Tokenizer, second: Passage| {
        let passages = [passage("a", "b"), second];
        let error = lambada(&mut session, &decoder, tokenizer, &passages, &mut go_on).unwrap_err();
        (error.to_string(), error.hint().unwrap())
    };
    let (message, hint) = refused(&tokenizer(), passage("a", &"x".repeat(24)));
    assert_eq!(message, "an answer of item 2 has 25 tokens, and block_size is 24");
    assert_eq!(hint, "raise block_size; where the model has no more positions, choose one that has");
    let (message, _) = refused(&tokenizer(), passage("a", "\u{e9}"));
    assert!(message.starts_with("item 2 cannot be put into tokens: "), "{message}");
    let large = Tokenizer::chars_of(&(' '..='\u{17f}').collect::<String>()).unwrap();
    let (message, _) = refused(&large, passage("\u{e9}", "a"));
    assert!(message.ends_with("is 201, but must be below 95"), "{message}");
    let (message, _) = refused(&large, passage("a", "\u{e9}"));
    assert_eq!(message, "token 2 of the prompt is 201, but the model has 95 words");
}
