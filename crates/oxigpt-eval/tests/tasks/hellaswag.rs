//! HellaSwag: both definitions, and what must not change a score.

use std::ops::ControlFlow;

use oxigpt_compute::{AdamWConfig, Data, Recompute, Session};
use oxigpt_eval::tasks::hellaswag::{Item, Missing, Protocol, Questions, Scores, hellaswag, read};
use oxigpt_eval::tasks::{HellaSwag, TaskError};
use oxigpt_model::{Initial, ModelConfig, Scorer, TrainPlan, TrainShape, score_plan};
use oxigpt_text::Tokenizer;

use crate::support::{Plain, assert_close, cpu, fixture, go_on, model, scoring, tokenizer};

const BLOCK_SIZE: usize = 300;

fn config() -> ModelConfig {
    model(BLOCK_SIZE, tokenizer().vocab_size())
}

fn items() -> Vec<Item> {
    read(&fixture("hellaswag_val.jsonl")).unwrap()
}

fn questions(items: &[Item], block_size: usize) -> Questions {
    Questions::new(items, &tokenizer(), block_size, &Protocol::BOTH).unwrap()
}

fn scored(session: &mut Session, scorer: &Scorer, questions: &Questions) -> HellaSwag {
    hellaswag(session, scorer, questions, &mut go_on).unwrap().unwrap()
}

/// Scores in batches of `batch_size`, for a model of `block_size`.
fn run(items: &[Item], batch_size: usize, block_size: usize) -> HellaSwag {
    let questions = questions(items, block_size);
    let (mut session, scorer) = scoring(&config(), [batch_size, questions.positions()], cpu(2));
    scored(&mut session, &scorer, &questions)
}

fn both(found: &HellaSwag) -> [&Scores; 2] {
    [found.build_nanogpt.as_ref().unwrap(), found.lm_eval.as_ref().unwrap()]
}

fn assert_same(found: &HellaSwag, expected: &HellaSwag, tolerance: f64) {
    for (found, expected) in both(found).into_iter().zip(both(expected)) {
        assert_eq!((found.acc, found.acc_norm), (expected.acc, expected.acc_norm));
        for (found, expected) in found.losses.iter().flatten().zip(expected.losses.iter().flatten()) {
            assert_close(*found, *expected, tolerance);
        }
    }
}

fn item(ctx: &str, endings: [&str; 4], label: usize) -> Item {
    let endings = endings.map(str::to_owned);
    Item { ctx: ctx.to_owned(), endings, label, activity_label: None, ctx_a: None, ctx_b: None }
}

/// Both definitions written out, with plain passes over whole rows in float64.
#[test]
fn scores_are_those_of_plain_passes() {
    let (items, tokenizer) = (items(), tokenizer());
    let mut plain = Plain::new(&config());
    let contexts = [
        "Roof shingle removal: A man is sitting on a roof. He",
        "Clean and jerk: A lady walks to a \
        barbell. She bends down and grabs the pole. The lady",
    ];
    let found = run(&items, 3, BLOCK_SIZE);
    let [build, lm_eval] = both(&found);
    let mut right = [0; 4];
    for (i, item) in items.iter().enumerate() {
        for (e, ending) in item.endings.iter().enumerate() {
            let continuation = tokenizer.encode(&format!(" {ending}")).unwrap();
            let expected = plain.sum(&tokenizer.encode(&item.ctx).unwrap(), &continuation);
            assert_close(build.losses[i][e], expected, 1e-6);
            assert_eq!(build.lengths[i][e], ending.len() as f64 + 1.0);
            if let Some(context) = contexts.get(i) {
                let expected = plain.sum(&tokenizer.encode(context).unwrap(), &continuation);
                assert_close(lm_eval.losses[i][e], expected, 1e-6);
            }
            assert_eq!(lm_eval.lengths[i][e], ending.len() as f64);
        }
        for (s, scores) in [build, lm_eval].into_iter().enumerate() {
            let (losses, lengths) = (scores.losses[i], scores.lengths[i]);
            let least = |by: [f64; 4]| (0..4).min_by(|&a, &b| by[a].total_cmp(&by[b])).unwrap();
            right[2 * s] += u64::from(least(losses) == item.label);
            let means = std::array::from_fn(|e| losses[e] / lengths[e]);
            right[2 * s + 1] += u64::from(least(means) == item.label);
        }
    }
    let counts = [build.acc, build.acc_norm, lm_eval.acc, lm_eval.acc_norm];
    assert_eq!(counts.map(|accuracy| accuracy.correct), right);
    assert!(counts.iter().all(|accuracy| accuracy.items == 5));
    assert_eq!((found.items, found.lm_eval_missing), (5, None));
}

/// Not even characters as tokens make the definitions agree: cleaned texts, another context, another length.
#[test]
fn the_definitions_are_told_apart() {
    let found = run(&items(), 2, BLOCK_SIZE);
    let [build, lm_eval] = both(&found);
    assert!(build.losses.iter().flatten().zip(lm_eval.losses.iter().flatten()).all(|(a, b)| a != b));
}

/// WikiHow's markers go, and space that this leaves behind the context begins the continuation.
#[test]
fn texts_of_wikihow_are_cleaned_by_one_definition_only() {
    let mut wikihow =
        item("[header] How to sit [step]", ["Find  a chair [title] Sit [substeps] down.", "b", "c", "d"], 0);
    wikihow.activity_label = Some("Home and Garden".to_owned());
    (wikihow.ctx_a, wikihow.ctx_b) = (Some(wikihow.ctx.clone()), Some(String::new()));
    let found = run(std::slice::from_ref(&wikihow), 1, BLOCK_SIZE);
    let [build, lm_eval] = both(&found);
    let (mut plain, tokenizer) = (Plain::new(&config()), tokenizer());
    let mut sum = |context: &str, continuation: &str| {
        plain.sum(&tokenizer.encode(context).unwrap(), &tokenizer.encode(continuation).unwrap())
    };
    let cleaned = "Find a chair. Sit down.";
    assert_close(build.losses[0][0], sum(&wikihow.ctx, &format!(" {}", wikihow.endings[0])), 1e-6);
    let query = "Home and Garden:  How to sit".replace("  ", " ");
    assert_close(lm_eval.losses[0][0], sum(&query, &format!("  {cleaned}")), 1e-6);
    assert_eq!(lm_eval.lengths[0][0], cleaned.len() as f64);
}

/// Lengths are characters, neither bytes nor tokens.
#[test]
fn one_definition_counts_characters() {
    let mut item = item("On", ["dit \u{e9}t\u{e9}.", "b", "c", "d"], 0);
    (item.activity_label, item.ctx_a, item.ctx_b) =
        (Some("x".into()), Some("On".into()), Some(String::new()));
    let gpt2 = Tokenizer::gpt2();
    let questions = Questions::new(&[item], &gpt2, 64, &Protocol::BOTH).unwrap();
    let config = ModelConfig { n_layer: 1, n_embd: 4, ..model(64, gpt2.vocab_size()) };
    let (mut session, scorer) = scoring(&config, [1, questions.positions()], cpu(1));
    let found = scored(&mut session, &scorer, &questions);
    let [build, lm_eval] = both(&found);
    assert_eq!(build.lengths[0][0], gpt2.encode(" dit \u{e9}t\u{e9}.").unwrap().len() as f64);
    assert_eq!(lm_eval.lengths[0][0], 8.0);
}

#[test]
fn the_batch_size_changes_nothing() {
    let expected = run(&items(), 1, BLOCK_SIZE);
    for batch_size in [2, 3, 5, 9] {
        assert_same(&run(&items(), batch_size, BLOCK_SIZE), &expected, 1e-6);
    }
}

#[test]
fn batches_are_as_large_as_there_are_items() {
    let questions = Questions::new(&items(), &tokenizer(), BLOCK_SIZE, &[Protocol::BuildNanoGpt]).unwrap();
    let n = items().len();
    assert_eq!([0, 1, n - 1, n, 100].map(|limit| questions.batch_size(limit)), [1, 1, n - 1, n, n]);
}

#[test]
fn threads_change_no_bit() {
    let questions = questions(&items(), BLOCK_SIZE);
    let [one, two] = [1, 2].map(|threads| {
        let (mut session, scorer) = scoring(&config(), [4, questions.positions()], cpu(threads));
        scored(&mut session, &scorer, &questions)
    });
    assert_eq!(one, two);
}

/// Caches of an item before do not shine through, and more positions than needed do not matter.
#[test]
fn padding_and_what_was_cached_before_change_nothing() {
    let questions = questions(&items(), BLOCK_SIZE);
    let (mut session, scorer) = scoring(&config(), [8, BLOCK_SIZE], cpu(2));
    let first = scored(&mut session, &scorer, &questions);
    assert_eq!(scored(&mut session, &scorer, &questions), first);
    assert_same(&run(&items(), 1, BLOCK_SIZE), &first, 1e-6);
}

#[test]
fn the_order_of_the_items_changes_no_bit() {
    let items = items();
    let expected = run(&items, 2, BLOCK_SIZE);
    let order = [3, 0, 4, 2, 1];
    let found = run(&order.map(|i| items[i].clone()), 2, BLOCK_SIZE);
    for (found, expected) in both(&found).into_iter().zip(both(&expected)) {
        assert_eq!((found.acc, found.acc_norm), (expected.acc, expected.acc_norm));
        assert_eq!(found.losses, order.map(|i| expected.losses[i]));
    }
}

#[test]
fn the_first_of_equal_endings_is_chosen() {
    let equal = ["the same end", "the same end", "the same end", "the same end"];
    for label in 0..4 {
        // Others beside it, so that passes have different lengths.
        let found =
            run_build(&[item("It is", equal, label), item("It", ["a", "bc", "def", &"x".repeat(40)], 0)]);
        assert_eq!((found.losses[0][1], found.losses[0][3]), (found.losses[0][0], found.losses[0][0]));
        let alone = run_build(&[item("It is", equal, label)]);
        assert_eq!(alone.acc.correct, u64::from(label == 0));
        assert_eq!(alone.acc_norm.correct, u64::from(label == 0));
    }
}

fn run_build(items: &[Item]) -> Scores {
    let questions = Questions::new(items, &tokenizer(), BLOCK_SIZE, &[Protocol::BuildNanoGpt]).unwrap();
    let (mut session, scorer) = scoring(&config(), [2, questions.positions()], cpu(1));
    let found = scored(&mut session, &scorer, &questions);
    assert_eq!((found.lm_eval, found.lm_eval_missing), (None, None), "was not asked for");
    found.build_nanogpt.unwrap()
}

/// The longest ending decides what all four see of the context.
#[test]
fn contexts_lose_their_left() {
    let item = item("0123456789", ["abcd", "a", "bc", "abcde"], 0);
    let tokenizer = tokenizer();
    let mut plain = Plain::new(&config());
    for (block_size, kept) in
        [(20, "0123456789"), (15, "0123456789"), (14, "123456789"), (8, "789"), (6, "9")]
    {
        let questions =
            Questions::new(std::slice::from_ref(&item), &tokenizer, block_size, &[Protocol::BuildNanoGpt])
                .unwrap();
        assert_eq!(questions.positions(), kept.len() + 5);
        let (mut session, scorer) = scoring(&config(), [1, questions.positions()], cpu(1));
        let found = scored(&mut session, &scorer, &questions).build_nanogpt.unwrap();
        assert_eq!(found.truncated, u64::from(kept.len() < 10));
        for (ending, loss) in item.endings.iter().zip(found.losses[0]) {
            let continuation = tokenizer.encode(&format!(" {ending}")).unwrap();
            assert_close(loss, plain.sum(&tokenizer.encode(kept).unwrap(), &continuation), 1e-6);
        }
    }
}

/// Contexts and endings of several pieces, and of many lengths side by side.
#[test]
fn long_texts_are_fed_in_pieces() {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(7);
    let items: Vec<_> = [1, 2, 9, 64, 130, 140, 150]
        .map(|len| item(&text[..len], [&text[..150], &text[..9], &text[..33], "."], 1))
        .into();
    let tokenizer = tokenizer();
    let mut plain = Plain::new(&config());
    let found = run_build(&items);
    for (item, losses) in items.iter().zip(found.losses) {
        for (ending, loss) in item.endings.iter().zip(losses) {
            let continuation = tokenizer.encode(&format!(" {ending}")).unwrap();
            assert_close(loss, plain.sum(&tokenizer.encode(&item.ctx).unwrap(), &continuation), 1e-6);
        }
    }
}

#[test]
fn a_definition_without_its_keys_is_left_out() {
    let mut items = items();
    items[1].ctx_b = None;
    items[3].ctx_b = None;
    let found = hellaswag_of(&items);
    assert_eq!((found.lm_eval, found.lm_eval_missing), (None, Some(Missing { key: "ctx_b", items: 2 })));
    assert!(found.build_nanogpt.is_some());
    items[2].activity_label = None;
    assert_eq!(hellaswag_of(&items).lm_eval_missing, Some(Missing { key: "activity_label", items: 1 }));
}

/// Markers may be all that an ending has, and one definition cleans them away.
#[test]
fn a_definition_that_leaves_nothing_of_an_ending_is_left_out() {
    let expected = hellaswag_of(&items());
    let mut items = items();
    items[1].endings[2] = "[step]".into();
    let found = hellaswag_of(&items);
    assert_eq!(found.lm_eval_missing, Some(Missing { key: "endings", items: 1 }));
    assert!(found.lm_eval.is_none());
    let [found, expected] = [found, expected].map(|found| found.build_nanogpt.unwrap().losses);
    assert_eq!((found[0], found[2]), (expected[0], expected[2]));
}

fn hellaswag_of(items: &[Item]) -> HellaSwag {
    run(items, 2, BLOCK_SIZE)
}

/// The weights of a training plan are scored where they are.
#[test]
fn a_model_in_training_is_scored() {
    let (config, questions) = (config(), questions(&items(), BLOCK_SIZE));
    let shape = TrainShape {
        batch_size: 2,
        block_size: 16,
        targets_per_step: 32,
        optimizer: AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 },
        eval_batch_size: 2,
        decode: true,
        lora: None,
        distill: None,
        recompute: Recompute::None,
    };
    let scored_shape = Some([2, questions.positions()]);
    let (plan, handles) = TrainPlan::build_scoring(&config, &shape, scored_shape).unwrap();
    let mut session = Session::new(plan, cpu(2)).unwrap();
    handles.parameters.upload(&mut session, &Initial { config: &config, seed: 7 }).unwrap();
    let found = scored(&mut session, handles.scorer.as_ref().unwrap(), &questions);
    assert_eq!(found, run(&items(), 2, BLOCK_SIZE));
    let (_, without) = TrainPlan::build(&config, &shape).unwrap();
    assert!(without.scorer.is_none());
}

#[test]
fn what_is_done_is_told_and_can_be_broken_off() {
    let questions = questions(&items(), BLOCK_SIZE);
    assert_eq!(questions.len(), 10);
    let (mut session, scorer) = scoring(&config(), [2, questions.positions()], cpu(1));
    let mut heard = Vec::new();
    let mut listen = |until: u64| {
        heard.clear();
        let found = hellaswag(&mut session, &scorer, &questions, &mut |done| {
            heard.push(done);
            if done == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (found.unwrap().is_some(), heard.clone())
    };
    assert_eq!(listen(0), (true, vec![2, 4, 5, 7, 9, 10]));
    assert_eq!(listen(4), (false, vec![2, 4]));
    assert_eq!(listen(5), (false, vec![2, 4, 5]));
    assert_eq!(listen(9), (false, vec![2, 4, 5, 7, 9]));
}

#[test]
fn results_have_the_agreed_keys() {
    let found = serde_json::to_value(run(&items(), 2, BLOCK_SIZE)).unwrap();
    let keys: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["acc", "acc_chars", "acc_norm", "build_nanogpt", "items", "lm_eval", "lm_eval_missing"];
    assert_eq!(keys, expected);
    assert_eq!(found["items"], 5);
    assert_eq!(found["acc"], found["build_nanogpt"]["acc"]["value"]);
    assert_eq!(found["acc_norm"], found["build_nanogpt"]["acc_norm"]["value"]);
    assert_eq!(found["acc_chars"], found["lm_eval"]["acc_norm"]["value"]);
    assert_eq!(found["lm_eval"]["acc"]["items"], 5);
    assert_eq!(found["build_nanogpt"]["acc"]["interval"].as_array().unwrap().len(), 2);
    assert!(found["build_nanogpt"].get("losses").is_none());
}

fn refused(items: &[Item], tokenizer: &Tokenizer, block_size: usize) -> String {
    let error = Questions::new(items, tokenizer, block_size, &Protocol::BOTH).unwrap_err();
    format!("{error}\nhint: {}", error.hint().unwrap())
}

#[test]
fn items_that_no_model_of_the_kind_can_answer_are_named() {
    let items = [item("On", ["a", "b", "c", "d"], 0), item("On", ["abcd", "a", "b", "c"], 0)];
    assert_eq!(
        refused(&items, &tokenizer(), 4),
        "an answer of item 2 has 5 tokens, and block_size is 4\n\
         hint: raise block_size; where the model has no more positions, choose one that has"
    );
    let few = Tokenizer::chars_of("On abc").unwrap();
    let message = refused(&items, &few, 4);
    assert!(
        message.starts_with("item 1 cannot be put into tokens: ") && message.contains("hint: "),
        "{message}"
    );
    assert_eq!(
        refused(&[item("", ["a", "b", "c", "d"], 0)], &tokenizer(), 4),
        "the context or an ending of item 1 has no tokens\nhint: remove the item from the file"
    );
}

#[test]
fn a_model_that_has_fallen_apart_has_no_score() {
    let (config, questions) = (config(), questions(&items(), BLOCK_SIZE));
    let (plan, table, scorer) = score_plan(&config, 2, questions.positions(), None).unwrap();
    let mut session = Session::new(plan, cpu(1)).unwrap();
    for entry in table.entries() {
        let len = session.plan().tensor(entry.id).len();
        session.upload(entry.id, Data::F32(&vec![f32::NAN; len])).unwrap();
    }
    let error = hellaswag(&mut session, &scorer, &questions, &mut go_on).unwrap_err();
    assert!(matches!(error, TaskError::NotFinite { .. }));
    assert!(error.to_string().ends_with(" a loss that is not a finite number"), "{error}");
    assert!(error.hint().unwrap().contains("choose another checkpoint"));
}

#[test]
fn words_that_the_model_has_not_are_refused() {
    let questions = questions(&items(), BLOCK_SIZE);
    let (mut session, scorer) = scoring(&model(BLOCK_SIZE, 20), [2, questions.positions()], cpu(1));
    let error = hellaswag(&mut session, &scorer, &questions, &mut go_on).unwrap_err();
    assert!(error.hint().unwrap().contains("larger vocabulary than the model has"), "{error}");
}
