//! HellaSwag in the middle of training.

use fs_err as fs;
use oxigpt_eval::tasks::hellaswag::{self, Protocol, Questions};
use oxigpt_model::score_plan;
use oxigpt_train::settings::{Settings, TaskFile};
use oxigpt_train::{
    Error, Estimate, Event, HellaSwagScore, Model, Outcome, machine::Machine, planned_scoring,
};

use crate::support::*;

fn scores(events: &[Event]) -> Vec<HellaSwagScore> {
    let score = |event: &Event| match event {
        Event::HellaSwag(score) => Some(*score),
        _ => None,
    };
    events.iter().filter_map(score).collect()
}

#[test]
fn every_evaluation_scores_and_changes_nothing() {
    let place = Place::new();
    let without = place.settings("without");
    let with = Settings { hellaswag: TaskFile::At(place.items()), ..place.settings("with") };
    run(without).unwrap();
    let (_, events) = run(with.clone()).unwrap();
    let scores = scores(&events);
    assert_eq!(scores.iter().map(|score| score.step).collect::<Vec<_>>(), [0, 3, 6, 8]);
    assert!(scores.iter().all(|score| score.items == 7 && score.truncated > 0));

    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read = |run| fs::read(place.checkpoint(run, 8).join(file)).unwrap();
        assert!(read("with") == read("without"), "{file}");
    }
    let log = read(&place.path("with").join("log.txt"));
    for score in &scores {
        let line = format!("{} hella {:.4}", score.step, score.acc_norm);
        assert!(log.lines().any(|found| found == line), "{line} in {log}");
    }
    let others: String = log.split_inclusive('\n').filter(|line| !line.contains(" hella ")).collect();
    assert_eq!(others, read(&place.path("without").join("log.txt")));
}

/// The same weights, scored by themselves.
#[test]
fn scores_are_those_of_the_checkpoint() {
    let place = Place::new();
    let settings = Settings { hellaswag: TaskFile::At(place.items()), ..place.settings("run") };
    let (_, events) = run(settings).unwrap();
    let model = Model::open(&place.checkpoint("run", 8)).unwrap();
    let items = hellaswag::read(&place.path("items.jsonl")).unwrap();
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let questions =
        Questions::new(&items, tokenizer, model.config.block_size, &[Protocol::BuildNanoGpt]).unwrap();
    let (plan, parameters, scorer) =
        score_plan(&model.config, questions.batch_size(8), questions.positions(), None).unwrap();
    let mut session = Machine::new("cpu", 1, false).session(plan).unwrap();
    parameters.upload(&mut session, &model.weights).unwrap();
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    let found = hellaswag::hellaswag(&mut session, &scorer, &questions, &mut go_on).unwrap().unwrap();
    let (found, last) = (found.build_nanogpt.unwrap(), *scores(&events).last().unwrap());
    assert_eq!((found.acc.value(), found.acc_norm.value()), (last.acc, last.acc_norm));
    assert_eq!(found.acc_norm.interval(), last.interval);
}

#[test]
fn the_first_items_only() {
    let place = Place::new();
    let hellaswag = TaskFile::At(place.items());
    let settings = Settings { hellaswag, hellaswag_limit: 3, max_iters: 1, ..place.settings("run") };
    let (_, events) = run(settings).unwrap();
    assert!(scores(&events).iter().all(|score| score.items == 3));
}

/// Where nothing is trained, too.
#[test]
fn an_evaluation_alone_scores_once() {
    let place = Place::new();
    let asked = Settings { hellaswag: TaskFile::At(place.items()), ..place.settings("run") };
    let (_, trained) = run(Settings { max_iters: 1, ..asked.clone() }).unwrap();
    let alone = Settings { eval_only: true, out_dir: place.text("alone"), ..asked };
    let (outcome, events) = run(alone).unwrap();
    assert!(matches!(outcome, Outcome::Evaluated(Some(_))));
    let (once, first) = (scores(&events), scores(&trained)[0]);
    assert_eq!(once.len(), 1);
    assert_eq!((once[0].acc, once[0].acc_norm), (first.acc, first.acc_norm));
}

#[test]
fn its_memory_is_planned() {
    let place = Place::new();
    let plain = place.settings("run").resolve().unwrap();
    let asked = Settings { hellaswag: TaskFile::At(place.items()), ..plain.clone() };
    let memory = |settings: &Settings, scored| Estimate::of(settings, 20, scored).unwrap().memory_bytes;
    assert_eq!(planned_scoring(&plain, None, 20).unwrap(), None);
    let scored = planned_scoring(&asked, None, 20).unwrap();
    let [rows, positions] = scored.unwrap();
    assert!((1..=8).contains(&rows) && positions == 8, "{rows} rows for 7 items");
    // Keys and values of each layer.
    let caches = 2 * 2 * rows * 8 * 16 * 4;
    assert!(memory(&asked, scored) >= memory(&plain, None) + caches);
    // What is not there yet is taken to be as long as can be.
    let published = Settings { hellaswag: TaskFile::Published, ..plain };
    assert_eq!(planned_scoring(&published, None, 20).unwrap(), Some([8, 8]));
}

#[test]
fn what_cannot_be_scored_is_refused_before_the_run() {
    let place = Place::new();
    let refused = |hellaswag| run(Settings { hellaswag, ..place.settings("run") });
    assert!(matches!(refused(TaskFile::Published), Err(Error::TaskNotGiven { .. })));
    let missing = told(refused(TaskFile::At(place.text("nothing.jsonl"))));
    assert!(missing.contains("nothing.jsonl") && missing.contains("check the path"), "{missing}");
    fs::write(place.path("broken.jsonl"), "{}\n").unwrap();
    let broken = told(refused(TaskFile::At(place.text("broken.jsonl"))));
    assert!(broken.contains("line 1 has no key \"ctx\""), "{broken}");
    let words = serde_json::json!({ "ctx": "zebra", "endings": ["a", "b", "c", "d"], "label": 0 });
    fs::write(place.path("words.jsonl"), words.to_string()).unwrap();
    let unknown = told(refused(TaskFile::At(place.text("words.jsonl"))));
    assert!(unknown.contains("item 1 cannot be put into tokens"), "{unknown}");
    assert!(!place.path("run").exists());
}
