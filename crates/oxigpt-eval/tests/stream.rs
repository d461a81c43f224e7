//! The loss of a tiny GPT-2 on a tiny corpus, beside PyTorch's in float64.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::reference::Reference;
use oxigpt_compute::{Backend, Session};
use oxigpt_data::{Dataset, EvalWindows, Split, eval_windows};
use oxigpt_eval::{Loss, evaluate};
use oxigpt_model::{Pretrained, TensorSource, eval_plan, open_pretrained};

/// Mean loss on the 12 windows of the corpus.
const EXPECTED: f64 = 5.087_684_002_306_194;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn windows(max_tokens: Option<u64>) -> EvalWindows {
    let dataset = Dataset::open(&fixture("stream")).expect("the corpus opens");
    eval_windows(dataset.split(Split::Val), 24, max_tokens).expect("the corpus has windows")
}

/// Evaluates in passes of `batch_size`; gives the loss, and what `progress` heard.
fn run(backend: Box<dyn Backend>, batch_size: usize, windows: &EvalWindows) -> (Loss, Vec<u64>) {
    let Pretrained { config, weights, .. } = open_pretrained(fixture("hf-gpt2")).expect("the model loads");
    let (plan, table, pass) = eval_plan(&config, batch_size, 24, None).expect("the model can be evaluated");
    let mut session = Session::new(plan, backend).expect("the model fits");
    table.upload(&mut session, &weights).expect("the weights are its own");
    let mut heard = Vec::new();
    let loss = evaluate(&mut session, &pass, windows, &mut |done| {
        heard.push(done);
        ControlFlow::Continue(())
    });
    assert_eq!(table.of(&session).collect().ok(), weights.collect().ok(), "weights have changed");
    (loss.expect("all tokens are words").expect("nothing broke off"), heard)
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads: 2, pin: false }).expect("two threads start"))
}

#[test]
fn the_loss_is_that_of_pytorch() {
    for (backend, tolerance) in [(Box::new(Reference::new()) as Box<dyn Backend>, 1e-7), (cpu(), 1e-6)] {
        let (loss, heard) = run(backend, 5, &windows(None));
        assert!((loss.nats_per_token / EXPECTED - 1.0).abs() < tolerance, "{loss:?}");
        assert_eq!((loss.windows, loss.tokens), (12, 288));
        assert_eq!(heard, [5, 10, 12]);
    }
}

/// A last pass that is not full counts its own windows alone.
#[test]
fn the_loss_does_not_depend_on_the_batch_size() {
    for max_tokens in [None, Some(7 * 24)] {
        let windows = windows(max_tokens);
        let (expected, _) = run(cpu(), 1, &windows);
        for batch_size in [2, 5, 12, 20] {
            let (found, _) = run(cpu(), batch_size, &windows);
            assert!((found.nats_per_token / expected.nats_per_token - 1.0).abs() < 1e-7);
            assert_eq!((found.windows, found.tokens), (expected.windows, expected.tokens));
        }
    }
}

#[test]
fn an_evaluation_that_is_broken_off_has_no_loss() {
    let Pretrained { config, weights, .. } = open_pretrained(fixture("hf-gpt2")).expect("the model loads");
    let (plan, table, pass) = eval_plan(&config, 5, 24, None).expect("the model can be evaluated");
    let mut session = Session::new(plan, cpu()).expect("the model fits");
    table.upload(&mut session, &weights).expect("the weights are its own");
    let mut passes = 0;
    let loss = evaluate(&mut session, &pass, &windows(None), &mut |_| {
        passes += 1;
        if passes == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(loss.expect("all tokens are words").is_none());
    assert_eq!(passes, 2);
}
