//! Whole steps on every backend: training against `reference`, and the laws that hold within one backend:
//! accumulation, micro-batches, causality, and decoding with a cache.

use oxigpt_compute::{AttentionKind, Data, DataMut, Gelu, Op, Recompute, Session, TensorId};

use crate::attention::KINDS;
use crate::case::{Case, Draft, distance, download, norm};
use crate::gpt::{self, BLOCK_SIZE, GPT2, Variant};
use crate::{Make, backends};

#[test]
fn training_step() {
    for variant in [
        GPT2,
        Variant { bias: false, gelu: Gelu::Erf, ..GPT2 },
        Variant { dropout: 0.2, tied: false, ..GPT2 },
        Variant { post_norm: true, second_mlp: true, ..GPT2 },
        Variant { adapted: true, ..GPT2 },
        Variant { parallel: true, dropout: 0.1, ..GPT2 },
        Variant { recompute: Recompute::Gelu, ..GPT2 },
        Variant { recompute: Recompute::Block, dropout: 0.1, ..GPT2 },
    ] {
        gpt::case(variant, 3, BLOCK_SIZE).check();
        gpt::case(variant, 1, 1).check();
    }
}

fn gradients(case: &Case, session: &Session) -> Vec<f64> {
    let names = case.parameters();
    names.iter().flat_map(|name| download(session, case.id(&format!("d.{name}")))).collect()
}

fn assert_close(what: &str, expected: &[f64], found: &[f64], relative: f64) {
    let (error, norm) = (distance(expected, found), norm(expected));
    assert!(error <= relative * norm, "{what}: off by {error:.3e} of {norm:.3e}");
}

/// Two micro-batches of two sequences give the gradients of one of four, dropout included.
#[test]
fn micro_batches_change_nothing() {
    let variant = Variant { dropout: 0.2, ..GPT2 };
    let (large, small) = (gpt::case(variant, 4, 5), gpt::case(variant, 2, 5));
    for row in backends() {
        let (label, make) = row.variants[0];
        let mut whole = large.session(make);
        whole.run(large.phase("train"));

        let mut parts = small.session(make);
        for name in large.parameters() {
            parts.upload(small.id(&name), Data::F32(large.reals(&name))).unwrap();
        }
        for (half, phase) in ["train", "accumulate"].into_iter().enumerate() {
            for name in ["tokens", "targets"] {
                let words = &large.integers(name)[half * 10..(half + 1) * 10];
                parts.upload(small.id(name), Data::U32(words)).unwrap();
            }
            let mut rng = large.integers("rng").to_vec();
            rng[3] = 2 * half as u32;
            parts.upload(small.id("rng"), Data::U32(&rng)).unwrap();
            parts.run(small.phase(phase));
        }
        assert_close(label, &gradients(&large, &whole), &gradients(&small, &parts), row.whole_step[0]);
    }
}

/// Losses before a word do not depend on it, bit by bit; those from it on do.
#[test]
fn losses_depend_on_no_later_word() {
    let case = gpt::case(GPT2, 1, BLOCK_SIZE);
    for row in backends() {
        let (label, make) = row.variants[0];
        let mut session = case.session(make);
        session.run(case.phase("train"));
        let before = download(&session, case.id("losses"));
        for changed in 0..BLOCK_SIZE {
            let mut tokens = case.integers("tokens").to_vec();
            tokens[changed] = (tokens[changed] + 1) % 13;
            session.upload(case.id("tokens"), Data::U32(&tokens)).unwrap();
            session.run(case.phase("train"));
            let after = download(&session, case.id("losses"));
            assert_eq!(before[..changed], after[..changed], "{label}: word {changed} acts on the past");
            assert!((changed..BLOCK_SIZE).all(|t| before[t] != after[t]), "{label}: word {changed}");
        }
    }
}

/// A gradient that enters at one position reaches no later one.
#[test]
fn gradients_reach_no_later_position() {
    for kind in KINDS {
        check_causality(kind);
    }
}

fn check_causality(kind: AttentionKind) {
    const T: usize = 70;
    const C: usize = 12;
    let mut d = Draft::new("causality");
    let qkv = d.normal("qkv", &[1, T, 3 * C], 0.0, 1.0);
    let out_btc = d.b.attention(qkv, 3, kind, None);
    let case = d.close(out_btc);
    let ops: Vec<&Op> = case.plan.phase(case.phase("train")).ops.iter().collect();
    let (dout, dqkv) = ops
        .iter()
        .find_map(|op| match op {
            Op::AttentionBackward { dout, dqkv, .. } => Some((*dout, *dqkv)),
            _ => None,
        })
        .unwrap();
    for row in backends() {
        let (label, make) = row.variants[0];
        for position in [0, 1, 40, 63, 64, T - 1] {
            let found = attention_gradient(&case, make, (dout, dqkv), position);
            assert!(
                found[..(position + 1) * 3 * C].iter().any(|&x| x != 0.0),
                "{label}, {kind}: no gradient"
            );
            assert!(
                found[(position + 1) * 3 * C..].iter().all(|&x| x == 0.0),
                "{label}, {kind}: a gradient at {position} reaches a later position",
            );
        }
    }
}

fn attention_gradient(
    case: &Case,
    make: Make,
    (dout, dqkv): (TensorId, TensorId),
    position: usize,
) -> Vec<f32> {
    let mut backend = make();
    backend.prepare(case.plan.clone()).unwrap();
    backend.upload(case.id("qkv"), Data::F32(case.reals("qkv"))).unwrap();
    let ops = &case.plan.phase(case.phase("train")).ops;
    ops.iter().filter(|op| matches!(op, Op::Attention { .. })).for_each(|op| backend.execute(op));
    let c = case.plan.tensor(dout).width();
    let mut dout_tc = vec![0f32; case.plan.tensor(dout).len()];
    dout_tc[position * c..(position + 1) * c].fill(1.0);
    backend.upload(dout, Data::F32(&dout_tc)).unwrap();
    ops.iter().filter(|op| matches!(op, Op::AttentionBackward { .. })).for_each(|op| backend.execute(op));
    let mut dqkv_values = vec![0f32; case.plan.tensor(dqkv).len()];
    backend.download(dqkv, DataMut::F32(&mut dqkv_values)).unwrap();
    dqkv_values
}

/// Positions given to a cache in pieces have the attention that they have all at once.
#[test]
fn cache_gives_what_full_attention_gives() {
    for kind in KINDS {
        check_cache(kind);
    }
}

fn check_cache(kind: AttentionKind) {
    const PIECES: [usize; 4] = [5, 1, 64, 1];
    const C: usize = 24;
    let t: usize = PIECES.iter().sum();
    let mut d = Draft::new("cache");
    let qkv = d.normal("qkv", &[2, t, 3 * C], 0.0, 1.0);
    let full = d.b.attention(qkv, 2, kind, None);
    let lengths = Some(d.counters("lengths", &[t as u32; 2]));
    d.b.mark_output(full);
    let caches = (d.b.cache("k", &[2, t + 3, C]), d.b.cache("v", &[2, t + 3, C]));
    let mut pieces = Vec::new();
    for (i, piece) in PIECES.into_iter().enumerate() {
        let phase = d.b.begin(&format!("piece {i}"));
        let part = d.normal(&format!("part {i}"), &[2, piece, 3 * C], 0.0, 1.0);
        let places = d.places([2, piece], [2, t + 3], |_, _| (0, 0));
        let out = d.b.cached_attention(part, caches, (places, lengths), 2, kind);
        d.b.mark_output(out);
        pieces.push((piece, phase, part, places, out));
    }
    let case = d.finish();
    for row in backends() {
        let (label, make) = row.variants[0];
        let mut session = case.session(make);
        session.run(case.phase("train"));
        let expected = download(&session, full);
        let mut done = 0;
        for &(piece, phase, part, places, out) in &pieces {
            let rows = |values: &[f64], width: usize| -> Vec<f64> {
                values
                    .chunks(t * width)
                    .flat_map(|x| x[done * width..(done + piece) * width].to_vec())
                    .collect()
            };
            let qkv: Vec<f64> = case.reals("qkv").iter().map(|&x| f64::from(x)).collect();
            session.upload(part, Data::F64(&rows(&qkv, 3 * C))).unwrap();
            let texts: Vec<_> = [0, 1].into_iter().flat_map(|text| vec![text; piece]).collect();
            let positions: Vec<_> = (done..done + piece).map(|position| position as u32).collect();
            session.upload(places.texts, Data::U32(&texts)).unwrap();
            session.upload(places.positions, Data::U32(&positions.repeat(2))).unwrap();
            session.run(phase);
            assert_close(label, &rows(&expected, C), &download(&session, out), row.whole_step[0]);
            done += piece;
        }
    }
}
