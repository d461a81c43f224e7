//! The adjoints that the builder writes, as `reference` computes them, against central differences of the loss.

use oxigpt_compute::reference::Reference;
use oxigpt_compute::{AttentionKind, Data, Gelu, Recompute, Session};

use crate::attention::KINDS;
use crate::case::{Case, distance, download, norm};
use crate::gpt::{self, GPT2, Variant};

/// Elements of a parameter that are checked.
const SAMPLES: usize = 12;
/// Step of the differences; the error of the fourth-order formula is of the order of its fourth power.
const STEP: f64 = 1e-3;

fn check(variant: Variant) {
    check_at(STEP, variant);
}

fn check_at(step: f64, variant: Variant) {
    let case = gpt::case(variant, 2, 5);
    let mut session = case.session(|| Box::new(Reference::new()));
    session.run(case.phase("train"));
    for name in case.parameters() {
        let gradient = download(&session, case.id(&format!("d.{name}")));
        let values: Vec<f64> = case.reals(&name).iter().map(|&x| f64::from(x)).collect();
        // A stride prime to all widths here, so that every row and column is met.
        let elements: Vec<usize> =
            (0..SAMPLES.min(values.len())).map(|i| (5 + i * 37) % values.len()).collect();
        let found: Vec<f64> = elements.iter().map(|&i| gradient[i]).collect();
        let mut slope = |i: usize| central_difference(&case, &mut session, (&name, &values, i), step);
        let expected: Vec<f64> = elements.iter().map(|&i| slope(i)).collect();
        let error = distance(&expected, &found);
        assert!(norm(&found) > 0.0, "{variant:?}: `{name}` has no gradient");
        assert!(
            error < 1e-6 * norm(&expected),
            "{variant:?}: gradient of `{name}` is off by {error:.3e} of {:.3e}",
            norm(&expected),
        );
    }
}

/// `(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h` for one element of one parameter.
fn central_difference(
    case: &Case,
    session: &mut Session,
    (name, values, element): (&str, &[f64], usize),
    step: f64,
) -> f64 {
    let mut loss_at = |offset: f64| {
        let mut moved = values.to_vec();
        moved[element] += offset;
        session.upload(case.id(name), Data::F64(&moved)).unwrap();
        session.run(case.phase("train"));
        let sum = |name| download(session, case.id(name)).iter().sum::<f64>();
        let has_squared_error = case.plan.tensors().any(|(_, tensor)| tensor.name == "squared_errors");
        sum("losses") + if has_squared_error { gpt::SQUARED_ERROR * sum("squared_errors") } else { 0.0 }
    };
    let near = loss_at(step) - loss_at(-step);
    let far = loss_at(2.0 * step) - loss_at(-2.0 * step);
    loss_at(0.0);
    (8.0 * near - far) / (12.0 * step)
}

#[test]
fn gpt2() {
    check(GPT2);
}

#[test]
fn without_bias_and_with_the_exact_gelu() {
    check(Variant { bias: false, gelu: Gelu::Erf, ..GPT2 });
}

#[test]
fn with_dropout() {
    check(Variant { dropout: 0.2, ..GPT2 });
}

#[test]
fn every_kind_of_attention() {
    for (i, attention) in KINDS.into_iter().filter(|kind| *kind != AttentionKind::Softmax).enumerate() {
        let dropout = if i % 2 == 0 { 0.0 } else { 0.2 };
        // Too short to meet the kink of a `max`.
        let step = if attention.to_string().contains("relu") { 1e-6 } else { STEP };
        check_at(step, Variant { attention, dropout, ..GPT2 });
    }
}

#[test]
fn post_norm() {
    check(Variant { post_norm: true, ..GPT2 });
}

#[test]
fn second_mlp() {
    check(Variant { second_mlp: true, ..GPT2 });
}

/// One normalised tensor with three readers.
#[test]
fn parallel_attention_and_mlps() {
    check(Variant { parallel: true, ..GPT2 });
}

#[test]
fn untied() {
    check(Variant { tied: false, ..GPT2 });
}

/// Frozen weights, low-rank adapters, and a squared error.
#[test]
fn adapted() {
    check(Variant { adapted: true, ..GPT2 });
    check(Variant { adapted: true, parallel: true, tied: false, bias: false, dropout: 0.2, ..GPT2 });
}

/// Through what was made again.
#[test]
fn recomputed() {
    for recompute in [Recompute::Gelu, Recompute::Block] {
        check(Variant { recompute, dropout: 0.2, ..GPT2 });
        check(Variant { recompute, adapted: true, parallel: true, ..GPT2 });
        check(Variant { recompute, post_norm: true, second_mlp: true, ..GPT2 });
    }
}

#[test]
fn all_at_once() {
    let gelu = Gelu::Erf;
    check(Variant { post_norm: true, second_mlp: true, tied: false, bias: false, gelu, ..GPT2 });
    check(Variant { parallel: true, dropout: 0.3, tied: false, gelu, ..GPT2 });
}
