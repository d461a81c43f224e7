//! Generation: the cache against recomputing, in every storage and side by side, the sliding window, and what a caller can get
//! wrong.

use std::ops::ControlFlow;

use oxigpt_compute::{Backend, Session};
use oxigpt_model::{
    AttentionKind, AttentionScale, DecodeShape, Decoder, Error, Initial, ModelConfig, Pretrained,
    SampleOptions, Storage, TensorSource, decode_plan, generate, generate_side_by_side, open_pretrained,
};

use crate::support::*;

const GREEDY: SampleOptions =
    SampleOptions { temperature: 0.0, top_k: None, max_new_tokens: 19, seed: 0, stop: None, words: None };

fn decoding(
    config: &ModelConfig,
    weights: &impl TensorSource,
    backend: fn() -> Box<dyn Backend>,
) -> (Session, Decoder) {
    decoding_as(config, &DecodeShape::one(config), weights, backend)
}

fn decoding_as(
    config: &ModelConfig,
    shape: &DecodeShape,
    weights: &impl TensorSource,
    backend: fn() -> Box<dyn Backend>,
) -> (Session, Decoder) {
    let (plan, table, decoder) = decode_plan(config, shape).unwrap();
    let mut session = Session::new(plan, backend()).unwrap();
    table.upload(&mut session, weights).unwrap();
    (session, decoder)
}

/// Initial weights ten times as large, so that the attention has something to say.
fn lively(config: &ModelConfig) -> oxigpt_model::NamedTensors {
    let mut weights = Initial { config, seed: 11 }.collect().unwrap();
    for tensor in weights.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        tensor.data.iter_mut().for_each(|x| *x *= 10.0);
    }
    weights
}

fn tokens(config: &ModelConfig, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i + 3 * i) % config.vocab_size) as u32).collect()
}

fn run(session: &mut Session, decoder: &Decoder, prompt: &[u32], options: &SampleOptions) -> Vec<u32> {
    generate(session, decoder, prompt, options, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let expected: Vec<u32> = serde_json::from_value(expected()["greedy"].clone()).unwrap();
    let Pretrained { config, weights, .. } = open_pretrained(fixture("hf-gpt2")).unwrap();
    for target in targets() {
        let (mut session, decoder) = decoding(&config, &weights, target.backend);
        let mut streamed = Vec::new();
        let found = generate(&mut session, &decoder, &expected[..5], &GREEDY, &mut |token| {
            streamed.push(token);
            ControlFlow::Continue(())
        });
        assert_eq!(found.unwrap(), expected[5..], "{}", target.name);
        assert_eq!(streamed, expected[5..]);

        let (plan, all) = AllLogits::build(&config, 1);
        let mut session = Session::new(plan, (target.backend)()).unwrap();
        all.weights.upload(&mut session, &weights).unwrap();
        let mut text = expected[..5].to_vec();
        while text.len() < expected.len() {
            let logits = all.run(&mut session, &text);
            text.push(greedy(&logits[text.len() - 1]));
        }
        assert_eq!(text, expected, "{} without cache", target.name);
    }
}

/// Chunks that end within the window, at its end, and overlap the one before; then single tokens.
#[test]
fn cached_logits_are_the_recomputed_ones() {
    for (block_size, prompt) in [(150, 64), (150, 65), (150, 140), (150, 150), (24, 1), (24, 24), (1, 1)] {
        let config = ModelConfig { block_size, ..small() };
        let weights = lively(&config);
        let tokens = tokens(&config, block_size);
        for (target, tolerance) in [(REFERENCE, 1e-11), (CPU, 1e-5)] {
            let (plan, all) = AllLogits::build(&config, 1);
            let mut session = Session::new(plan, (target.backend)()).unwrap();
            all.weights.upload(&mut session, &weights).unwrap();
            let expected = all.run(&mut session, &tokens);

            let (mut session, decoder) = decoding(&config, &weights, target.backend);
            let mut logits = Vec::new();
            decoder.prefill(&mut session, &tokens[..prompt], &mut logits).unwrap();
            assert!(distance(&logits, &expected[prompt - 1]) < tolerance, "{block_size} {prompt}");
            for position in prompt..block_size {
                decoder.decode(&mut session, &[&tokens[..=position]], &mut logits).unwrap();
                assert!(distance(&logits, &expected[position]) < tolerance, "{block_size} {position}");
            }
        }
    }
}

/// Weights as a storage keeps them.
fn kept(
    config: &ModelConfig,
    weights: &oxigpt_model::NamedTensors,
    storage: Storage,
) -> oxigpt_model::NamedTensors {
    let (plan, table, _) = decode_plan(config, &DecodeShape { storage, ..DecodeShape::one(config) }).unwrap();
    let mut session = Session::new(plan, reference()).unwrap();
    table.upload(&mut session, weights).unwrap();
    table.of(&session).collect().unwrap()
}

/// A cache gives what recomputing gives, in every storage; and decoding with stored weights is decoding with the weights that the
/// storage makes of them. In bfloat16 activations are rounded too, and one that comes out at the other neighbour is off by 2^-8;
/// beside integers they have 16 bits.
#[test]
fn stored_weights_are_weights_once_rounded() {
    let config = ModelConfig { block_size: 70, ..small() };
    let weights = lively(&config);
    let tokens = tokens(&config, 70);
    for (storage, tolerance) in [(Storage::Float32, 1e-5), (Storage::Bfloat16, 2e-2), (Storage::Int8, 2e-3)] {
        let rounded = kept(&config, &weights, storage);
        let change = distance_of(&weights, &rounded);
        assert_eq!(change > 0.0, storage != Storage::Float32, "{storage:?} changed weights by {change}");
        let (plan, all) = AllLogits::build(&config, 1);
        let mut session = Session::new(plan, reference()).unwrap();
        all.weights.upload(&mut session, &rounded).unwrap();
        let expected = all.run(&mut session, &tokens);
        for target in targets() {
            let shape = DecodeShape { storage, ..DecodeShape::one(&config) };
            let (mut session, decoder) = decoding_as(&config, &shape, &weights, target.backend);
            let (mut logits, mut recomputed) = (Vec::new(), Vec::new());
            decoder.prefill(&mut session, &tokens[..40], &mut logits).unwrap();
            for position in 40..70 {
                decoder.decode(&mut session, &[&tokens[..=position]], &mut logits).unwrap();
                let off = distance(&logits, &expected[position]);
                assert!(off < tolerance, "{} {storage:?} at {position}: {off}", target.name);
            }
            decoder.prefill(&mut session, &tokens, &mut recomputed).unwrap();
            let off = distance(&logits, &recomputed);
            assert!(off < tolerance, "{} {storage:?}: cached and recomputed differ by {off}", target.name);
        }
    }
}

fn distance_of(a: &oxigpt_model::NamedTensors, b: &oxigpt_model::NamedTensors) -> f64 {
    let pairs = a.iter().flat_map(|(name, tensor)| tensor.data.iter().zip(&b[name].data));
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Texts side by side are those that come alone, past the window's end too; each ends by itself.
#[test]
fn texts_side_by_side_are_those_alone() {
    let config = small();
    let weights = lively(&config);
    let options: Vec<_> = (0..5)
        .map(|i| SampleOptions {
            temperature: 1.0,
            seed: i,
            max_new_tokens: [12, 3, 0, 12, 9][i as usize],
            ..GREEDY
        })
        .collect();
    for storage in [Storage::Float32, Storage::Bfloat16, Storage::Int8] {
        for target in targets() {
            for batch_size in [5, 6] {
                let shape = DecodeShape { batch_size, positions: config.block_size, storage };
                let (mut many, decoder) = decoding_as(&config, &shape, &weights, target.backend);
                let mut heard = vec![Vec::new(); 5];
                let texts =
                    generate_side_by_side(&mut many, &decoder, &[3, 1], &options, &mut |text, token| {
                        heard[text].push(token);
                        if text == 3 && heard[3].len() == 4 {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    });
                let texts = texts.unwrap();
                assert_eq!(texts, heard);
                let one = DecodeShape { batch_size: 1, ..shape };
                let (mut one, decoder) = decoding_as(&config, &one, &weights, target.backend);
                for (i, (text, options)) in texts.iter().zip(&options).enumerate() {
                    let mut alone = run(&mut one, &decoder, &[3, 1], options);
                    alone.truncate(if i == 3 { 4 } else { usize::MAX });
                    assert_eq!(*text, alone, "{} {storage:?}: text {i}", target.name);
                }
            }
        }
    }
}

/// Every kind, with every divisor. Where the divisor is the length of the text, recomputing is a pass over that length.
#[test]
fn every_kind_of_attention_decodes_what_it_recomputes() {
    let scales = ["length", "position", "block"].map(|scale| AttentionScale::parse(scale, 24).unwrap());
    let pointwise = ["relu", "gelu", "sigmoid", "square", "relu-square"];
    let pointwise = pointwise.iter().flat_map(|f| scales.map(|scale| (format!("pointwise-{f}"), scale)));
    let gaussian =
        ["gaussian", "gaussian-poly-3", "gaussian-poly-8"].map(|name| (name.to_owned(), scales[0]));
    for (name, scale) in gaussian.into_iter().chain(pointwise) {
        let attention = AttentionKind::parse(&name, scale, false).unwrap();
        let config = ModelConfig { block_size: 24, attention, ..small() };
        let weights = lively(&config);
        let tokens = tokens(&config, 24);
        for (target, tolerance) in [(REFERENCE, 1e-11), (CPU, 2e-5)] {
            let (mut session, decoder) = decoding(&config, &weights, target.backend);
            let mut logits = Vec::new();
            for fed in [5, 6, 7, 23, 24] {
                if fed == 5 || fed == 23 {
                    decoder.prefill(&mut session, &tokens[..fed], &mut logits).unwrap();
                } else {
                    decoder.decode(&mut session, &[&tokens[..fed]], &mut logits).unwrap();
                }
                let mut short = config.clone();
                short.crop_block_size(fed).unwrap();
                let (plan, all) = AllLogits::build(&short, 1);
                let mut whole = Session::new(plan, (target.backend)()).unwrap();
                all.weights.upload(&mut whole, &weights).unwrap();
                let expected = &all.run(&mut whole, &tokens[..fed])[fed - 1];
                let error = distance(&logits, expected);
                assert!(error < tolerance, "{}, {name}, {scale}: {error:.1e} after {fed}", target.name);
            }
        }
    }
}

/// Past `block_size` each token follows from the last `block_size` ones alone.
#[test]
fn the_window_slides() {
    let config = small();
    let weights = lively(&config);
    let (plan, all) = AllLogits::build(&config, 1);
    let mut recomputing = Session::new(plan, reference()).unwrap();
    all.weights.upload(&mut recomputing, &weights).unwrap();
    for prompt in [2, 7, 20] {
        let mut text = tokens(&config, prompt);
        let (mut session, decoder) = decoding(&config, &weights, reference);
        let found = run(&mut session, &decoder, &text, &GREEDY);
        for token in found {
            let window = &text[text.len().saturating_sub(7)..];
            let logits = all.run(&mut recomputing, window);
            assert_eq!(token, greedy(logits.last().unwrap()), "after {} tokens", text.len());
            text.push(token);
        }
        assert_eq!(text.len(), prompt + 19);
    }
}

#[test]
fn chance_follows_the_seed() {
    let config = small();
    let (mut session, decoder) = decoding(&config, &Initial { config: &config, seed: 1 }, reference);
    let options = SampleOptions { temperature: 1.0, max_new_tokens: 200, ..GREEDY };
    let first = run(&mut session, &decoder, &[3], &options);
    assert_eq!(first, run(&mut session, &decoder, &[3], &options));
    assert_ne!(first, run(&mut session, &decoder, &[3], &SampleOptions { seed: 1, ..options }));
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert!(distinct.len() > 30 && first.iter().all(|&t| t < 37), "{first:?}");
    let few = run(&mut session, &decoder, &[3], &SampleOptions { words: Some(4), ..options });
    assert!(few.len() == 200 && few.iter().all(|&token| token < 4), "{few:?}");
    let narrow = SampleOptions { top_k: Some(1), ..options };
    assert_eq!(run(&mut session, &decoder, &[3], &narrow)[..19], run(&mut session, &decoder, &[3], &GREEDY));
}

#[test]
fn text_ends_where_it_should() {
    let config = small();
    let (mut session, decoder) = decoding(&config, &lively(&config), reference);
    let whole = run(&mut session, &decoder, &[3], &SampleOptions { temperature: 1.0, ..GREEDY });
    let stop = whole[6];
    let first = whole.iter().position(|&t| t == stop).unwrap();
    let options = SampleOptions { temperature: 1.0, stop: Some(stop), ..GREEDY };
    assert_eq!(run(&mut session, &decoder, &[3], &options), whole[..first]);

    let mut seen = 0;
    let broken = generate(&mut session, &decoder, &[3], &GREEDY, &mut |_| {
        seen += 1;
        if seen == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((broken.unwrap().len(), seen), (4, 4));
    assert!(run(&mut session, &decoder, &[3], &SampleOptions { max_new_tokens: 0, ..GREEDY }).is_empty());
}

#[test]
fn senseless_requests_are_refused() {
    let config = small();
    let (mut session, decoder) = decoding(&config, &Initial { config: &config, seed: 1 }, reference);
    let mut refuse = |prompt: &[u32], options: SampleOptions| -> Error {
        let error = generate(&mut session, &decoder, prompt, &options, &mut |_| panic!("a token came"));
        error.unwrap_err()
    };
    let cases = [
        (refuse(&[], GREEDY), "the prompt has no tokens", "line break"),
        (refuse(&[1, 37], GREEDY), "token 1 of the prompt is 37, but the model has 37 words", "tokenizer"),
        (refuse(&[1], SampleOptions { top_k: Some(0), ..GREEDY }), "top_k is 0", "leave top_k out"),
        (refuse(&[1], SampleOptions { temperature: -0.5, ..GREEDY }), "temperature is -0.5", "0.8 is usual"),
        (refuse(&[1], SampleOptions { temperature: f64::NAN, ..GREEDY }), "temperature is NaN", "0.8"),
    ];
    for (error, message, hint) in cases {
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }

    let mut damaged = lively(&config);
    damaged.get_mut("ln_f.weight").unwrap().data[0] = f32::NAN;
    let (mut session, decoder) = decoding(&config, &damaged, reference);
    let error = generate(&mut session, &decoder, &[1, 2], &GREEDY, &mut |_| ControlFlow::Continue(()));
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "the logits after 2 tokens are not finite");
    assert!(error.hint().unwrap().contains("earlier checkpoint"));
}
