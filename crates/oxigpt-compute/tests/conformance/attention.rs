//! Attention of every kind, whole and over a cache.
//!
//! Legend: batch B, t positions, c width, d width of a head.

use oxigpt_compute::{Activation, AttentionKind, AttentionScale, LinearWeights};
use proptest::prelude::*;

use crate::case::{Case, Draft};
use crate::is_simulated;
use crate::operators::{dropout, random};

/// Every kind, and every way of dividing.
pub(crate) const KINDS: [AttentionKind; 12] = [
    AttentionKind::Softmax,
    AttentionKind::Gaussian,
    AttentionKind::GaussianPoly { squarings: 1, clamp: false },
    AttentionKind::GaussianPoly { squarings: 3, clamp: false },
    AttentionKind::GaussianPoly { squarings: 2, clamp: true },
    AttentionKind::GaussianPoly { squarings: 8, clamp: false },
    AttentionKind::GaussianPoly { squarings: 16, clamp: true },
    AttentionKind::Pointwise { activation: Activation::Gelu, scale: AttentionScale::Length },
    AttentionKind::Pointwise { activation: Activation::Relu, scale: AttentionScale::Position },
    AttentionKind::Pointwise { activation: Activation::Sigmoid, scale: AttentionScale::Block(100) },
    AttentionKind::Pointwise { activation: Activation::Square, scale: AttentionScale::Position },
    AttentionKind::Pointwise { activation: Activation::ReluSquare, scale: AttentionScale::Length },
];

/// What float32 costs a kind. Exponents of Gaussian kinds are differences of larger numbers, and powers multiply errors.
fn kind_slack(kind: AttentionKind, deviation: f64) -> f64 {
    let of_scores = if kind.is_gaussian() { 4.0 } else { 1.0 };
    of_scores * deviation * deviation
}

pub(crate) fn attention(
    kind: AttentionKind,
    (batch, t, n_head, d_head): (usize, usize, usize, usize),
    p: f32,
    deviation: f64,
) -> Case {
    let mut d = Draft::new(format!("{kind:?} {batch} {t} {n_head} {d_head} {p} {deviation}"));
    let qkv = d.normal("qkv", &[batch, t, 3 * n_head * d_head], 0.0, deviation);
    let dropout = dropout(&mut d, p, 5);
    let out_btc = d.b.attention(qkv, n_head, kind, dropout);
    d.slack(kind_slack(kind, deviation));
    d.close(out_btc)
}

#[test]
fn attention_on_awkward_shapes() {
    for (i, shape) in [
        (1, 1, 1, 1),
        (1, 2, 1, 128),
        (2, 3, 7, 1),
        (1, 63, 2, 5),
        (3, 64, 1, 64),
        (1, 65, 3, 24),
        (1, 129, 2, 17),
        (2, 127, 1, 80),
        (1, 200, 1, 65),
        (2, 31, 13, 1),
        (1, 257, 2, 16),
        (1, 320, 1, 3),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, kind) in KINDS.into_iter().enumerate() {
            let p = if i % 4 < 2 { 0.0 } else { 0.2 };
            if kind == AttentionKind::Softmax {
                attention(kind, shape, p, 1.0).check();
                attention(kind, shape, 0.2 - p, 1.0).check();
            } else if (i + j) % 2 == 0 {
                attention(kind, shape, p, 1.0).check();
            }
        }
    }
}

/// Between linear layers, as in a model, what attention reads and writes is stored in bfloat16 where products are.
#[test]
fn attention_of_what_is_stored_rounded() {
    for (i, shape) in [
        (1, 1, 1, 2),
        (1, 2, 1, 128),
        (2, 3, 7, 1),
        (1, 63, 2, 6),
        (3, 64, 1, 64),
        (1, 65, 3, 24),
        (1, 129, 2, 18),
        (2, 127, 1, 80),
        (1, 320, 2, 3),
        (1, 200, 1, 66),
        (1, 257, 2, 16),
    ]
    .into_iter()
    .enumerate()
    // A simulated GPU takes seconds to compile a width.
    .step_by(if is_simulated() { 4 } else { 1 })
    {
        for (j, kind) in KINDS.into_iter().enumerate() {
            if j == 0 || (i + j) % 3 == 0 {
                stored_attention(kind, shape, if (i + j) % 2 == 0 { 0.0 } else { 0.2 }).check();
            }
        }
    }
}

fn stored_attention(
    kind: AttentionKind,
    (batch, t, n_head, d_head): (usize, usize, usize, usize),
    p: f32,
) -> Case {
    let mut d = Draft::new(format!("stored {kind:?} {batch} {t} {n_head} {d_head} {p}"));
    let c = n_head * d_head;
    let [before, after] = [("before", 3 * c), ("after", c)].map(|(name, o)| {
        let w = d.b.parameter(name, &[c, o]);
        LinearWeights { w, bias: None }
    });
    let x_btc = d.normal("x", &[batch, t, c], 0.0, 1.0);
    let qkv = d.b.linear(x_btc, before);
    let dropout = dropout(&mut d, p, 5);
    let out_btc = d.b.attention(qkv, n_head, kind, dropout);
    let out_btc = d.b.linear(out_btc, after);
    d.slack(kind_slack(kind, 1.0));
    d.close(out_btc)
}

/// Scores of some hundreds: weights of a softmax are nearly one-hot, exponentials of scores alone would overflow.
#[test]
fn attention_with_large_scores() {
    attention(AttentionKind::Softmax, (1, 70, 2, 32), 0.0, 8.0).check();
    attention(AttentionKind::GaussianPoly { squarings: 3, clamp: true }, (1, 70, 2, 8), 0.0, 3.0).check();
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn attention_on_random_shapes(
        batch in 1..4usize, t in 1..90usize, n_head in 1..6usize, d_head in 1..70usize,
        p in proptest::sample::select(&[0.0f32, 0.1, 0.5, 0.9][..]),
        kind in proptest::sample::select(&KINDS[1..]),
    ) {
        for kind in [AttentionKind::Softmax, kind] {
            attention(kind, (batch, t, n_head, d_head), p, 1.0).check();
        }
    }
}

fn cached_attention(
    kind: AttentionKind,
    (batch, n_head, d_head): (usize, usize, usize),
    (t, position, s): (usize, usize, usize),
) -> Case {
    cached_attention_of(kind, ([batch, t], [batch, s]), (n_head, d_head), |b, i| (b, position + i))
}

fn cached_attention_of(
    kind: AttentionKind,
    ([batch, t], [texts, s]): ([usize; 2], [usize; 2]),
    (n_head, d_head): (usize, usize),
    place: impl Fn(usize, usize) -> (usize, usize),
) -> Case {
    let first = place(0, 0);
    let mut d = Draft::new(format!("cached {kind:?} {batch} {texts} {t} {first:?} {s} {n_head} {d_head}"));
    let c = n_head * d_head;
    let qkv = d.normal("qkv", &[batch, t, 3 * c], 0.0, 1.0);
    let caches = (d.b.cache("k", &[texts, s, c]), d.b.cache("v", &[texts, s, c]));
    let lengths: Vec<u32> = (0..texts).map(|x| (s + 3 * x) as u32).collect();
    let lengths = kind.depends_on_length().then(|| d.counters("lengths", &lengths));
    let places = d.places([batch, t], [texts, s], place);
    let out_btc = d.b.cached_attention(qkv, caches, (places, lengths), n_head, kind);
    d.b.mark_output(out_btc);
    d.slack(kind_slack(kind, 1.0));
    d.finish()
}

#[test]
fn cached_attention_on_awkward_shapes() {
    for (shape, places) in [
        ((1, 1, 1), (1, 0, 1)),
        ((1, 2, 64), (1, 63, 64)),
        ((2, 3, 5), (1, 64, 129)),
        ((3, 1, 17), (65, 0, 65)),
        ((1, 13, 1), (7, 130, 137)),
        ((2, 1, 128), (64, 1, 128)),
    ] {
        for kind in KINDS {
            cached_attention(kind, shape, places).check();
        }
    }
}

/// Rows that belong to all texts, and rows side by side that belong to several.
#[test]
fn cached_attention_of_rows_in_many_places() {
    let in_all = |_: usize, i: usize| (3, 2 + i);
    let from_behind = |b: usize, i: usize| (2 - b, (7 * i + 5 * b) % 90);
    let ragged = |_: usize, i: usize| match i {
        0..20 => (2, 3 + i),
        20..23 => (0, i - 20),
        23..88 => (1, i - 20),
        _ => (2, 50),
    };
    for kind in KINDS {
        cached_attention_of(kind, ([1, 5], [3, 9]), (2, 8), in_all).check();
        cached_attention_of(kind, ([2, 13], [3, 91]), (3, 7), from_behind).check();
        cached_attention_of(kind, ([1, 89], [3, 97]), (2, 16), ragged).check();
    }
}

proptest! {
    #![proptest_config(random())]
    #[test]
    fn cached_attention_on_random_shapes(
        batch in 1..4usize, t in 1..40usize, position in 0..90usize, spare in 0..9usize,
        n_head in 1..6usize, d_head in 1..70usize,
        kind in proptest::sample::select(&KINDS[..]),
    ) {
        cached_attention(kind, (batch, n_head, d_head), (t, position, position + t + spare)).check();
    }
}
