//! Golden values: float64 PyTorch on two tiny models, with bias and tanh-GELU, and without and with erf; the first with
//! every kind of attention.

use oxigpt_compute::{Data, Session};
use oxigpt_model::{Evaluate, TensorSource, TrainPlan, TrainShape, eval_plan};

use crate::support::*;

fn train_plan(case: &Case) -> (oxigpt_compute::Plan, TrainPlan) {
    let shape = TrainShape {
        batch_size: Case::BATCH,
        block_size: 24,
        targets_per_step: Case::BATCH * 24,
        optimizer: ADAMW,
        eval_batch_size: Case::BATCH,
        decode: false,
        lora: None,
        distill: None,
    };
    TrainPlan::build(&case.config, &shape).unwrap()
}

/// A session with the case's weights and batch.
fn at_start(target: &Target, case: &Case) -> (Session, TrainPlan) {
    let (plan, train) = train_plan(case);
    let mut session = Session::new(plan.with_precision(target.precision), (target.backend)()).unwrap();
    train.parameters.upload(&mut session, &case.weights()).unwrap();
    session.upload(train.tokens, Data::U32(&case.tokens)).unwrap();
    session.upload(train.targets, Data::U32(&case.targets)).unwrap();
    (session, train)
}

#[test]
fn gradients_are_those_of_pytorch() {
    for target in targets().into_iter().chain(bfloat16_targets()) {
        for case in cases() {
            let (mut session, train) = at_start(&target, &case);
            session.run(train.phases.first);
            for entry in train.gradients.entries() {
                let mut found = download(&session, entry.id);
                assert!(found.split_off(entry.shape.iter().product()).iter().all(|x| *x == 0.0));
                let expected = case.tensors.read(&format!("expected.grad.{}", entry.name)).unwrap();
                let expected: Vec<f64> = expected.iter().map(|&x| x.into()).collect();
                let error = distance(&found, &expected);
                let (on, of) = (target.name, case.name);
                assert!(error <= case.slack * target.gradient, "{on}, {of}, {}: {error:.1e}", entry.name);
            }
        }
    }
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    for target in targets().into_iter().chain(bfloat16_targets()) {
        for case in cases() {
            let (mut session, train) = at_start(&target, &case);
            for (step, expected) in case.expected["train"].as_array().unwrap().iter().enumerate() {
                session.run(train.phases.first);
                session.run(train.phases.norm);
                let what = format!("{}, {}, step {step}", target.name, case.name);
                let loss = mean(&download(&session, train.objective[0].losses));
                assert_close(&what, loss, expected["loss"].as_f64().unwrap(), target.step_loss);
                let norm = download(&session, train.norm)[0];
                assert_close(&what, norm, expected["grad_norm"].as_f64().unwrap(), case.slack * target.norm);
                train.set_schedule(&mut session, expected["lr"].as_f64().unwrap(), step as u64).unwrap();
                session.run(train.phases.update);
            }
            let wte = download(&session, train.parameters.id("wte.weight").unwrap());
            assert!(wte[160 * 32..].iter().all(|x| *x == 0.0), "padded rows have moved");
        }
    }
}

#[test]
fn losses_are_those_of_pytorch() {
    for target in targets().into_iter().chain(bfloat16_targets()) {
        for case in cases() {
            let (plan, weights, Evaluate { tokens, targets, losses, phase, .. }) =
                eval_plan(&case.config, Case::BATCH, 24, None).unwrap();
            let mut session =
                Session::new(plan.with_precision(target.precision), (target.backend)()).unwrap();
            weights.upload(&mut session, &case.weights()).unwrap();
            session.upload(tokens, Data::U32(&case.tokens)).unwrap();
            session.upload(targets, Data::U32(&case.targets)).unwrap();
            session.run(phase);
            let what = format!("{}, {}", target.name, case.name);
            let loss = mean(&download(&session, losses));
            assert_close(&what, loss, case.expected["loss"].as_f64().unwrap(), target.loss);
        }
    }
}

#[test]
fn logits_are_those_of_pytorch() {
    for target in targets().into_iter().chain(bfloat16_targets()) {
        for case in cases() {
            let (plan, all) = AllLogits::build(&case.config, Case::BATCH);
            let mut session =
                Session::new(plan.with_precision(target.precision), (target.backend)()).unwrap();
            all.weights.upload(&mut session, &case.weights()).unwrap();
            let expected = case.tensors.read("expected.logits").unwrap();
            let found = all.run(&mut session, &case.tokens).concat();
            assert_eq!(found.len(), expected.len());
            for (found, &expected) in found.iter().zip(expected.iter()) {
                assert!((found - f64::from(expected)).abs() <= target.logit, "{found} {expected}");
            }
        }
    }
}
