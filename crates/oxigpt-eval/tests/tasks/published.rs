//! Scores of a model with GPT-2's vocabulary on the first items of the published validation set, beside PyTorch's in
//! float64. The model is too large for this repository: `OXIGPT_HELLASWAG=DIR` names a directory with `hf-micro/`,
//! `hellaswag_scores.json` and `hellaswag_val.jsonl`.

use std::path::PathBuf;

use fs_err as fs;
use oxigpt_compute::Session;
use oxigpt_eval::tasks::hellaswag::{Protocol, Questions, hellaswag, read};
use oxigpt_model::{Pretrained, open_pretrained, score_plan};
use oxigpt_text::Tokenizer;
use serde_json::Value;

use crate::support::{assert_close, cpu, go_on};

#[test]
#[ignore = "needs a model that is not in this repository"]
fn scores_are_those_of_pytorch() {
    let dir =
        PathBuf::from(std::env::var_os("OXIGPT_HELLASWAG").expect("OXIGPT_HELLASWAG names a directory"));
    let expected: Value =
        serde_json::from_slice(&fs::read(dir.join("hellaswag_scores.json")).unwrap()).unwrap();
    let expected_items = expected["items"].as_array().unwrap();
    let mut items = read(&dir.join("hellaswag_val.jsonl")).unwrap();
    items.truncate(expected_items.len());

    let Pretrained { config, weights, .. } = open_pretrained(dir.join("hf-micro")).unwrap();
    let questions =
        Questions::new(&items, &Tokenizer::gpt2(), config.block_size, &[Protocol::BuildNanoGpt]).unwrap();
    for batch_size in [1, 8, 64] {
        let (plan, table, scorer) = score_plan(&config, batch_size, questions.positions(), None).unwrap();
        let mut session = Session::new(plan, cpu(2)).unwrap();
        table.upload(&mut session, &weights).unwrap();
        let found = hellaswag(&mut session, &scorer, &questions, &mut go_on).unwrap().unwrap();
        let scores = found.build_nanogpt.unwrap();
        for (i, item) in expected_items.iter().enumerate() {
            for e in 0..4 {
                let ending = &item["endings"][e];
                let number = |key: &str| ending[key].as_f64().unwrap();
                let (loss, tokens) = (scores.losses[i][e], scores.lengths[i][e]);
                assert_eq!(tokens, number("tokens"));
                assert_close(loss, number("sum_nll"), 1e-4);
                assert_close(loss / tokens, number("mean_nll"), 1e-4);
            }
        }
        assert_eq!(scores.acc.value(), expected["acc"].as_f64().unwrap());
        assert_eq!(scores.acc_norm.value(), expected["acc_norm"].as_f64().unwrap());
    }
}
