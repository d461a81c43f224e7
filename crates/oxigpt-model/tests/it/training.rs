//! The training plan as its user sees it: micro-batches, dropout, phases that share weights.

use std::ops::ControlFlow;

use oxigpt_compute::{Data, Recompute, Session};
use oxigpt_model::{Initial, ModelConfig, SampleOptions, TensorSource, TrainPlan, TrainShape, generate};

use crate::support::*;

const BATCH: usize = 4;

fn shape(batch_size: usize) -> TrainShape {
    TrainShape {
        batch_size,
        block_size: 7,
        targets_per_step: BATCH * 7,
        optimizer: ADAMW,
        eval_batch_size: BATCH,
        decode: true,
        lora: None,
        distill: None,
        recompute: Recompute::None,
    }
}

fn batch() -> (Vec<u32>, Vec<u32>) {
    let token = |i: usize| ((i * i) % 37) as u32;
    ((0..BATCH * 7).map(token).collect(), (1..=BATCH * 7).map(token).collect())
}

fn session(config: &ModelConfig, shape: &TrainShape, target: &Target) -> (Session, TrainPlan) {
    let (plan, train) = TrainPlan::build(config, shape).unwrap();
    let mut session = Session::new(plan, (target.backend)()).unwrap();
    train.parameters.upload(&mut session, &Initial { config, seed: 4 }).unwrap();
    (session, train)
}

/// Forward and backward of a whole step, in micro-batches; gives its losses.
fn gradients(session: &mut Session, train: &TrainPlan, step: u32) -> Vec<f64> {
    let (tokens, targets) = batch();
    let rows = train.shape.batch_size;
    let mut losses = Vec::new();
    for first_row in (0..BATCH).step_by(rows) {
        let part = first_row * 7..(first_row + rows) * 7;
        session.upload(train.tokens, Data::U32(&tokens[part.clone()])).unwrap();
        session.upload(train.targets, Data::U32(&targets[part])).unwrap();
        train.set_rng(session, 99, step, first_row as u32).unwrap();
        session.run(if first_row == 0 { train.phases.first } else { train.phases.more });
        losses.extend(download(session, train.objective[0].losses));
    }
    session.run(train.phases.norm);
    losses
}

fn update(session: &mut Session, train: &TrainPlan, step: u64) {
    train.set_schedule(session, 0.02, step).unwrap();
    session.run(train.phases.update);
}

#[test]
fn a_step_does_not_depend_on_its_micro_batches() {
    for (target, tolerance) in [(REFERENCE, 1e-12), (CPU, 2e-6)] {
        for dropout in [0.0, 0.3] {
            let config = ModelConfig { dropout, ..small() };
            let (mut whole, whole_plan) = session(&config, &shape(BATCH), &target);
            let expected = gradients(&mut whole, &whole_plan, 5);
            for rows in [1, 2] {
                let (mut cut, cut_plan) = session(&config, &shape(rows), &target);
                // Twice: the second time must not see the first one's gradients.
                gradients(&mut cut, &cut_plan, 4);
                let found = gradients(&mut cut, &cut_plan, 5);
                assert!(distance(&found, &expected) < tolerance);
                for (a, b) in cut_plan.gradients.entries().iter().zip(whole_plan.gradients.entries()) {
                    let error = distance(&download(&cut, a.id), &download(&whole, b.id));
                    assert!(
                        error < 10.0 * tolerance,
                        "{} {dropout} {rows} {}: {error:.1e}",
                        target.name,
                        a.name
                    );
                }
            }
        }
    }
}

#[test]
fn dropout_acts_in_training_alone() {
    let config = ModelConfig { dropout: 0.3, ..small() };
    let (mut session, train) = session(&config, &shape(BATCH), &REFERENCE);
    let dropped = gradients(&mut session, &train, 1);
    assert_eq!(dropped, gradients(&mut session, &train, 1));
    assert_ne!(dropped, gradients(&mut session, &train, 2));

    let (tokens, targets) = batch();
    session.upload(train.evaluate.tokens, Data::U32(&tokens)).unwrap();
    session.upload(train.evaluate.targets, Data::U32(&targets)).unwrap();
    session.run(train.evaluate.phase);
    let evaluated = download(&session, train.evaluate.losses);

    let (mut without, plan) = self::session(&small(), &shape(BATCH), &REFERENCE);
    assert_eq!(evaluated, gradients(&mut without, &plan, 1));
    assert_ne!(evaluated, dropped);
}

/// Evaluating and generating between steps changes nothing of the steps.
#[test]
fn phases_share_weights_and_nothing_else() {
    let config = ModelConfig { dropout: 0.1, ..small() };
    for target in targets() {
        let (mut plain, train) = session(&config, &shape(2), &target);
        let (mut busy, _) = session(&config, &shape(2), &target);
        let options = SampleOptions {
            temperature: 1.0,
            top_k: None,
            max_new_tokens: 9,
            seed: 0,
            stop: None,
            words: None,
        };
        let mut texts = Vec::new();
        for step in 0..3 {
            gradients(&mut plain, &train, step);
            gradients(&mut busy, &train, step);
            busy.run(train.evaluate.phase);
            let decoder = train.decoder.as_ref().unwrap();
            let text = generate(&mut busy, decoder, &[1, 2], &options, &mut |_| ControlFlow::Continue(()));
            texts.push(text.unwrap());
            update(&mut plain, &train, step.into());
            update(&mut busy, &train, step.into());
        }
        assert_ne!(texts[0], texts[2], "the decoder does not see the updates");
        for table in [&train.parameters, &train.moments, &train.gradients] {
            assert_eq!(table.of(&plain).collect().unwrap(), table.of(&busy).collect().unwrap());
        }
    }
}

/// Weights and moments carried over into another session continue bit for bit.
#[test]
fn weights_and_moments_carry_a_run_over() {
    let config = small();
    for target in targets() {
        let (mut whole, train) = session(&config, &shape(BATCH), &target);
        for step in 0..4 {
            if step == 2 {
                let (mut resumed, _) = session(&config, &shape(BATCH), &CPU);
                train.parameters.upload(&mut resumed, &train.parameters.of(&whole)).unwrap();
                train.moments.upload(&mut resumed, &train.moments.of(&whole)).unwrap();
                if target.name == "cpu" {
                    whole = resumed;
                }
            }
            gradients(&mut whole, &train, step);
            update(&mut whole, &train, step.into());
        }
        let (mut straight, _) = session(&config, &shape(BATCH), &target);
        for step in 0..4 {
            gradients(&mut straight, &train, step);
            update(&mut straight, &train, step.into());
        }
        for table in [&train.parameters, &train.moments] {
            assert_eq!(table.of(&whole).collect().unwrap(), table.of(&straight).collect().unwrap());
        }
    }
}

#[test]
fn a_batch_is_learnt_by_heart() {
    let config = small();
    let (mut session, train) = session(&config, &shape(BATCH), &CPU);
    let first = mean(&gradients(&mut session, &train, 0));
    assert!((first - 37f64.ln()).abs() < 0.1, "initial loss {first}");
    for step in 0..150 {
        gradients(&mut session, &train, step);
        update(&mut session, &train, step.into());
    }
    let last = mean(&gradients(&mut session, &train, 0));
    assert!(last < 0.05, "loss after 150 steps {last}");
}

#[test]
fn impossible_plans_are_refused() {
    let refuse = |shape: TrainShape| TrainPlan::build(&small(), &shape).unwrap_err();
    let cases = [
        (refuse(TrainShape { batch_size: 0, ..shape(1) }), "batch_size is 0"),
        (refuse(TrainShape { eval_batch_size: 0, ..shape(1) }), "eval_batch_size is 0"),
        (refuse(TrainShape { targets_per_step: 0, ..shape(1) }), "total_batch_size is 0"),
        (refuse(TrainShape { block_size: 8, ..shape(1) }), "block_size 8 is more than the 7 positions"),
        (refuse(TrainShape { batch_size: 1 << 40, ..shape(1) }), "the rows of attention weights would be"),
    ];
    for (error, message) in cases {
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().is_some());
    }
    let (mut session, train) = session(&small(), &shape(1), &REFERENCE);
    let error = session.upload(train.tokens, Data::U32(&[37; 7])).unwrap_err();
    assert!(error.to_string().contains("is 37, but must be below 37"), "{error}");
}
