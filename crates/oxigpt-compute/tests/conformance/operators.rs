//! One case per operator and option, on awkward shapes and on random ones.
//!
//! Legend: batch B, t positions, c width, o output width, d width of a head.

use oxigpt_compute::{AdamWConfig, Dropout, Gelu, LinearWeights, NormWeights, TensorId};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::case::{Case, Draft};

/// `(batch, t, c, o)`: ones, primes, and one less, one more than a tile.
const AWKWARD: [(usize, usize, usize, usize); 10] = [
    (1, 1, 1, 1),
    (1, 1, 65, 127),
    (1, 64, 1, 63),
    (3, 1, 7, 1),
    (1, 63, 64, 65),
    (2, 32, 129, 64),
    (5, 13, 127, 17),
    (1, 129, 63, 129),
    (1, 127, 31, 257),
    (4, 16, 128, 384),
];

/// The same shapes every time, so that a failure is the fault of a change; fewer where each new width of a head is
/// another compilation.
pub(crate) fn random() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(1);
    let cases = if crate::device().is_some() { 4 } else { 24 };
    ProptestConfig { cases, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

pub(crate) fn dropout(d: &mut Draft, p: f32, site: u32) -> Option<Dropout> {
    let rng = d.counters("rng", &[0xDEAD_BEEF, 17, 4, 3]);
    (p > 0.0).then_some(Dropout { p, site, rng })
}

fn bias(d: &mut Draft, with: bool, width: usize) -> Option<TensorId> {
    with.then(|| d.b.parameter("bias", &[width]))
}

fn norm_weights(d: &mut Draft, with_bias: bool, c: usize) -> NormWeights {
    NormWeights { weight: d.b.parameter("weight", &[c]), bias: bias(d, with_bias, c) }
}

// ---- embed ----

/// Tied to the classifier, so that the table's gradient has two parts.
fn embed(batch: usize, t: usize, c: usize, block_size: usize, (words, padded): (usize, usize)) -> Case {
    let mut d = Draft::new(format!("embed {batch} {t} {c} {block_size} {words}"));
    let (wte, wpe) = (d.b.parameter("wte", &[padded, c]), d.b.parameter("wpe", &[block_size, c]));
    let tokens = d.words("tokens", &[batch, t], words);
    let x_btc = d.b.embed(tokens, None, wte, wpe);
    d.close_tied(x_btc, &[batch, t], wte, words)
}

#[test]
fn embed_on_awkward_shapes() {
    for (batch, t, c, words) in AWKWARD {
        embed(batch, t, c, t, (words, words.next_multiple_of(64))).check();
        embed(batch, t, c, t + 3, (words, words)).check();
    }
}

#[test]
fn gpt2_vocabulary() {
    embed(1, 7, 5, 8, (50257, 50304)).check();
}

#[test]
fn embed_at_positions() {
    let mut d = Draft::new("embed at positions");
    let (wte, wpe) = (d.b.parameter("wte", &[9, 6]), d.b.parameter("wpe", &[12, 6]));
    let (tokens, positions) = (d.words("tokens", &[2, 5], 9), d.words("positions", &[2, 5], 12));
    let x_btc = d.b.embed(tokens, Some(positions), wte, wpe);
    d.b.mark_output(x_btc);
    d.finish().check();
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn embed_on_random_shapes(batch in 1..5usize, t in 1..20usize, c in 1..40usize, words in 1..90usize, more in 0..9usize) {
        embed(batch, t, c, t + more, (words, words + more)).check();
    }
}

// ---- classifier ----

fn classifier_only(n: usize, c: usize, (words, padded): (usize, usize), deviation: f64) -> Case {
    let mut d = Draft::new(format!("classifier without gradients {n} {c} {words} {padded}"));
    let (x_nc, w) = (d.normal("x", &[n, c], 0.0, deviation), d.b.parameter("w", &[padded, c]));
    let targets = d.words("targets", &[n], words);
    d.b.classifier(x_nc, w, targets, words);
    d.slack(deviation);
    d.finish()
}

fn classifier(n: usize, c: usize, words: (usize, usize), deviation: f64) -> Case {
    let mut d = Draft::new(format!("classifier {n} {c} {words:?}"));
    let x_nc = d.normal("x", &[n, c], 0.0, deviation);
    d.slack(deviation);
    d.close_with(x_nc, words)
}

#[test]
fn classifier_on_awkward_shapes() {
    for (batch, t, c, words) in AWKWARD {
        classifier(batch * t, c, (words, words + batch), 1.0).check();
        classifier_only(batch * t, c, (words, words + batch), 1.0).check();
    }
}

/// GPT-2's vocabulary, and so many rows that their logits come in two slices.
#[test]
fn classifier_in_slices() {
    let mut d = Draft::new("classifier in slices");
    let (x_nc, head) = (d.normal("x", &[327, 2], 0.0, 1.0), d.b.parameter("head", &[50304, 2]));
    let targets = d.words("targets", &[327], 50257);
    let losses = d.b.classifier(x_nc, head, targets, 50257);
    d.b.backward(&[(losses, 1.0)]);
    d.finish().check();
}

/// Logits of some hundreds: exponentials of them alone would overflow.
#[test]
fn classifier_with_large_logits() {
    classifier(13, 24, (50, 64), 40.0).check();
    classifier_only(13, 24, (50, 64), 40.0).check();
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn classifier_on_random_shapes(n in 1..80usize, c in 1..70usize, words in 1..140usize, padding in 0..70usize) {
        classifier(n, c, (words, words + padding), 1.0).check();
    }
}

// ---- add, layer norm ----

/// A row of one or two elements is normalised to a constant: the gradient of nothing is left, and rounding is
/// multiplied by up to one over the root of the epsilon.
fn norm_slack(c: usize) -> f64 {
    if c <= 2 { 300.0 } else { 1.0 }
}

fn layer_norm(batch: usize, t: usize, c: usize, with_bias: bool, mean: f64) -> Case {
    let mut d = Draft::new(format!("layer_norm {batch} {t} {c} {with_bias} {mean}"));
    let x_btc = d.normal("x", &[batch, t, c], mean, 1.0);
    let weights = norm_weights(&mut d, with_bias, c);
    let y_btc = d.b.layer_norm(x_btc, weights);
    d.slack(norm_slack(c) + mean);
    d.close(y_btc)
}

/// The sum is read by the norm and by the next addition, as in a block: its adjoint has an addend.
fn add_layer_norm(batch: usize, t: usize, c: usize, with_bias: bool) -> Case {
    let mut d = Draft::new(format!("add_layer_norm {batch} {t} {c} {with_bias}"));
    let (a_btc, b_btc) = (d.normal("a", &[batch, t, c], 0.0, 1.0), d.normal("b", &[batch, t, c], 0.0, 1.0));
    let weights = norm_weights(&mut d, with_bias, c);
    let sum_btc = d.b.add(a_btc, b_btc);
    let y_btc = d.b.layer_norm(sum_btc, weights);
    let z_btc = d.b.add(sum_btc, y_btc);
    d.slack(norm_slack(c));
    d.close(z_btc)
}

#[test]
fn layer_norm_on_awkward_shapes() {
    for (batch, t, c, o) in AWKWARD {
        layer_norm(batch, t, c, t % 2 == 1, 0.0).check();
        layer_norm(1, batch, o, t % 2 == 0, 0.0).check();
        add_layer_norm(batch, t, c, o % 2 == 1).check();
    }
}

/// The mean is large beside the deviation: the variance must not be a difference of large numbers.
#[test]
fn layer_norm_of_a_large_mean() {
    layer_norm(2, 9, 96, true, 30.0).check();
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn layer_norm_on_random_shapes(batch in 1..4usize, t in 1..40usize, c in 1..150usize, with_bias: bool) {
        layer_norm(batch, t, c, with_bias, 0.0).check();
        add_layer_norm(batch, t, c, with_bias).check();
    }
}

// ---- linear, GELU ----

/// `gelu`: which, and whether it rides on the linear operator.
fn linear(batch: usize, t: usize, c: usize, o: usize, with_bias: bool, gelu: Option<(Gelu, bool)>) -> Case {
    let mut d = Draft::new(format!("linear {batch} {t} {c} {o} {with_bias} {gelu:?}"));
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 1.0);
    let w = d.b.parameter("w", &[c, o]);
    let bias = bias(&mut d, with_bias, o);
    let mut y_bto = d.b.linear(x_btc, LinearWeights { w, bias });
    if let Some((kind, fused)) = gelu {
        if !fused {
            let zero = d.normal("zero", &[batch, t, o], 0.0, 0.0);
            y_bto = d.b.add(y_bto, zero);
        }
        y_bto = d.b.gelu(y_bto, kind);
    }
    d.close(y_bto)
}

/// Two linear operators with a GELU in between, whose adjoint rides on the second's.
fn mlp(batch: usize, t: usize, c: usize, o: usize, kind: Gelu) -> Case {
    let mut d = Draft::new(format!("mlp {batch} {t} {c} {o} {kind:?}"));
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 2.0);
    let [up, down] = [("up", [c, o]), ("down", [o, c])]
        .map(|(name, shape)| LinearWeights { w: d.b.parameter(name, &shape), bias: None });
    let y_bto = d.b.linear(x_btc, up);
    let y_bto = d.b.gelu(y_bto, kind);
    let z_btc = d.b.linear(y_bto, down);
    d.close(z_btc)
}

fn unembed(batch: usize, t: usize, c: usize, words: usize) -> Case {
    let mut d = Draft::new(format!("unembed {batch} {t} {c} {words}"));
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 1.0);
    let wte = d.b.parameter("wte", &[words, c]);
    let logits_btv = d.b.unembed(x_btc, wte);
    d.close(logits_btv)
}

const GELUS: [Option<(Gelu, bool)>; 5] = [
    None,
    Some((Gelu::Tanh, true)),
    Some((Gelu::Tanh, false)),
    Some((Gelu::Erf, true)),
    Some((Gelu::Erf, false)),
];

#[test]
fn linear_on_awkward_shapes() {
    for (i, (batch, t, c, o)) in AWKWARD.into_iter().enumerate() {
        linear(batch, t, c, o, i % 2 == 0, GELUS[i % 5]).check();
        linear(1, o, t, c, i % 2 == 1, GELUS[(i + 2) % 5]).check();
        mlp(batch, t, c, o, [Gelu::Tanh, Gelu::Erf][i % 2]).check();
        mlp(1, o, t, 8 * c, [Gelu::Erf, Gelu::Tanh][i % 2]).check();
        unembed(batch, t, c, o).check();
    }
}

/// Two linear operators with the same weights: the second adds to the gradient within one phase.
#[test]
fn linear_with_shared_weights() {
    let mut d = Draft::new("linear with shared weights");
    let x_btc = d.normal("x", &[2, 5, 9], 0.0, 1.0);
    let weights = LinearWeights { w: d.b.parameter("w", &[9, 9]), bias: bias(&mut d, true, 9) };
    let y_btc = d.b.linear(x_btc, weights);
    let z_btc = d.b.linear(y_btc, weights);
    d.close(z_btc).check();
}

/// Far into both tails, where the GELU is zero or the identity.
#[test]
fn gelu_of_large_numbers() {
    for kind in [Gelu::Tanh, Gelu::Erf] {
        for deviation in [1e-3, 10.0, 1e3] {
            let mut d = Draft::new(format!("gelu {kind:?} {deviation}"));
            let x_btc = d.normal("x", &[1, 17, 16], 0.0, deviation);
            let y_btc = d.b.gelu(x_btc, kind);
            d.close(y_btc).check();
        }
    }
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn linear_on_random_shapes(
        batch in 1..4usize, t in 1..50usize, c in 1..90usize, o in 1..90usize,
        with_bias: bool, gelu in proptest::sample::select(&GELUS[..]),
    ) {
        linear(batch, t, c, o, with_bias, gelu).check();
        mlp(batch, t, c, o, gelu.map_or(Gelu::Tanh, |(kind, _)| kind)).check();
        unembed(batch, t, c, o).check();
    }
}

// ---- scale, squared_error ----

fn scale(batch: usize, t: usize, c: usize, factor: f64) -> Case {
    let mut d = Draft::new(format!("scale {batch} {t} {c} {factor}"));
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 1.0);
    let y_btc = d.b.scale(x_btc, factor);
    d.close(y_btc)
}

/// With its gradient, and without; the gradient goes on through another operator.
fn squared_error(batch: usize, t: usize, c: usize, scale: Option<f64>) -> Case {
    let mut d = Draft::new(format!("squared_error {batch} {t} {c} {scale:?}"));
    let (x_btc, target_btc) =
        (d.normal("x", &[batch, t, c], 0.0, 1.0), d.normal("target", &[batch, t, c], 0.5, 1.0));
    let w = d.b.parameter("w", &[c, c]);
    let y_btc = d.b.linear(x_btc, LinearWeights { w, bias: None });
    let losses = d.b.squared_error(y_btc, target_btc);
    if let Some(scale) = scale {
        d.b.backward(&[(losses, scale)]);
        d.b.accumulating(d.train, "accumulate");
    }
    d.finish()
}

#[test]
fn scale_and_squared_error_on_awkward_shapes() {
    for (batch, t, c, _) in AWKWARD {
        scale(batch, t, c, 0.0625).check();
        squared_error(batch, t, c, None).check();
        squared_error(batch, t, c, Some(0.25)).check();
    }
}

// ---- dropout, select_row ----

fn dropout_alone(batch: usize, t: usize, c: usize, p: f32) -> Case {
    let mut d = Draft::new(format!("dropout {batch} {t} {c} {p}"));
    // So that what is kept is not much larger than one, and the classifier not ill-conditioned.
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 1.0 - f64::from(p));
    let dropout = dropout(&mut d, p, 2);
    let y_btc = d.b.dropout(x_btc, dropout);
    let z_btc = d.b.add(x_btc, y_btc);
    d.close(z_btc)
}

fn select_row(batch: usize, t: usize, c: usize, row: usize) -> Case {
    let mut d = Draft::new(format!("select_row {batch} {t} {c} {row}"));
    let (x_btc, row) = (d.normal("x", &[batch, t, c], 0.0, 1.0), d.index("row", row, t));
    let out_b1c = d.b.select_row(x_btc, row);
    d.b.mark_output(out_b1c);
    d.finish()
}

#[test]
fn dropout_and_select_row_on_awkward_shapes() {
    for (batch, t, c, o) in AWKWARD {
        dropout_alone(batch, t, c, 0.1).check();
        dropout_alone(batch, t, o, 0.999).check();
        select_row(batch, t, c, t - 1).check();
        select_row(batch, t, c, 0).check();
    }
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn dropout_on_random_shapes(batch in 1..4usize, t in 1..40usize, c in 1..90usize, p in 0.01..0.99f32) {
        dropout_alone(batch, t, c, p).check();
    }
}

// ---- update ----

fn update(c: usize, o: usize, grad_clip: f64, weight_decay: f64, lr: f32) -> Case {
    let mut d = Draft::new(format!("update {c} {o} {grad_clip} {weight_decay} {lr}"));
    let x_nc = d.normal("x", &[5, c], 0.0, 1.0);
    let weights = LinearWeights { w: d.b.parameter("w", &[c, o]), bias: bias(&mut d, true, o) };
    let y_no = d.b.linear(x_nc, weights);
    let (head, targets) = (d.b.parameter("head", &[16, o]), d.words("targets", &[5], 11));
    let losses = d.b.classifier(y_no, head, targets, 11);
    d.b.backward(&[(losses, 1.0)]);
    d.b.begin("update");
    let norm = d.b.grad_norm();
    let schedule = d.reals("schedule", &[lr, 0.271, 0.0297]);
    let config = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay, grad_clip };
    d.b.adamw(norm, schedule, config);
    // A moment of one number is a random one and a gradient, which may nearly cancel.
    d.slack(if o == 1 { 2.0 } else { 1.0 });
    d.finish()
}

#[test]
fn update_with_and_without_clipping_and_decay() {
    for (c, o) in [(1, 1), (7, 65), (64, 128), (129, 127), (300, 300)] {
        update(c, o, 0.0, 0.1, 6e-4).check();
        update(c, o, 1.0, 0.1, 6e-4).check();
        update(c, o, 1e9, 0.0, 0.0).check();
    }
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn update_on_random_shapes(c in 1..90usize, o in 1..90usize, grad_clip in 0.0..3.0f64, lr in 0.0..0.1f32) {
        update(c, o, grad_clip, 0.1, lr).check();
    }
}
