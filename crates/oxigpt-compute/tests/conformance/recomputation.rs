//! What is made again in the backward pass: the same bits in less memory, and nothing that is not read.

use std::collections::HashMap;

use oxigpt_compute::{AttentionKind, Cost, Gelu, Op, Recompute, Role, TensorId};

use crate::attention::KINDS;
use crate::case::Case;
use crate::gpt::{self, BLOCK_SIZE, GPT2, Variant};
use crate::{backends, device};

const AGAIN: [Recompute; 2] = [Recompute::Gelu, Recompute::Block];

fn case(variant: Variant, recompute: Recompute) -> Case {
    // The GELU that NVIDIA's library applies within a product is the tanh approximation, of sums that are not rounded yet.
    let gelu = if device().is_some() { Gelu::Erf } else { variant.gelu };
    gpt::case(Variant { recompute, gelu, ..variant }, 3, BLOCK_SIZE)
}

/// Compares losses, score ranges, gradients, moments and weights after two micro-batches and an update.
fn check(variant: Variant) {
    for recompute in AGAIN {
        let (plain, again) = (case(variant, Recompute::None), case(variant, recompute));
        for (plain, again) in [(plain.in_bfloat16(), again.in_bfloat16()), (plain, again)] {
            for (label, make) in backends().into_iter().flat_map(|row| row.variants) {
                let (expected, found) = (by_name(&plain, plain.run(make)), by_name(&again, again.run(make)));
                assert_eq!(expected.len(), found.len());
                for ((name, expected), (_, found)) in expected.iter().zip(&found) {
                    let same = expected.iter().zip(found).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{label}, {}: `{name}` differs", again.label);
                }
            }
        }
    }
}

fn by_name(case: &Case, values: HashMap<TensorId, Vec<f64>>) -> Vec<(String, Vec<f64>)> {
    let mut named: Vec<_> = values.into_iter().collect();
    named.sort_by_key(|(id, _)| *id);
    named.into_iter().map(|(id, values)| (case.plan.tensor(id).name.clone(), values)).collect()
}

#[test]
fn the_bits_are_the_same() {
    for variant in [
        GPT2,
        Variant { bias: false, gelu: Gelu::Erf, dropout: 0.2, ..GPT2 },
        Variant { post_norm: true, second_mlp: true, ..GPT2 },
        Variant { parallel: true, dropout: 0.1, tied: false, ..GPT2 },
        Variant { adapted: true, dropout: 0.1, ..GPT2 },
    ] {
        check(variant);
    }
}

#[test]
fn the_bits_are_the_same_with_every_kind_of_attention() {
    for (i, attention) in KINDS.into_iter().enumerate() {
        check(Variant { attention, dropout: if i % 2 == 0 { 0.2 } else { 0.0 }, ..GPT2 });
    }
}

/// Operators after the classifier that are not adjoints.
fn made_again(recompute: Recompute) -> Vec<&'static str> {
    let case = case(GPT2, recompute);
    let ops = &case.plan.phase(case.phase("train")).ops;
    let adjoints = ops.iter().map(Op::name).skip_while(|name| *name != "classifier").skip(1);
    adjoints.filter(|name| !name.contains("backward")).collect()
}

/// Layer norms begin with the sum that is kept; the second block, whose adjoint comes first, is there; and what a block
/// adds to the stream in the end is not needed.
#[test]
fn nothing_is_made_that_is_not_read() {
    assert_eq!(made_again(Recompute::None), [""; 0]);
    assert_eq!(
        made_again(Recompute::Gelu),
        ["gelu", "layer_norm", "layer_norm", "gelu", "layer_norm", "layer_norm"]
    );
    assert_eq!(
        made_again(Recompute::Block),
        ["layer_norm", "linear", "attention", "linear", "add_layer_norm", "linear_gelu"]
    );
}

#[test]
fn memory_is_saved_and_operations_are_counted() {
    let [(no_bytes, no_flops), (gelu_bytes, gelu_flops), (block_bytes, block_flops)] =
        [Recompute::None, Recompute::Gelu, Recompute::Block].map(|recompute| {
            let plan = gpt::case(Variant { recompute, ..GPT2 }, 64, BLOCK_SIZE).plan;
            let Cost { flops, .. } = plan.phases().map(|(phase, _)| plan.cost(phase)).sum();
            (plan.memory_by_role()[&Role::Activation], flops)
        });
    assert!(block_bytes < gelu_bytes && gelu_bytes < no_bytes, "{no_bytes} {gelu_bytes} {block_bytes}");
    assert_eq!(gelu_flops, no_flops);
    // Twice, with accumulation: c_attn, attention, attn.c_proj and mlp.c_fc of one block.
    let (rows, width) = (64.0 * BLOCK_SIZE as f64, 12.0);
    let products = 2.0 * rows * width * (3.0 + 1.0 + 2.0) * width;
    let attention = 2.0 * rows * (BLOCK_SIZE as f64 + 1.0) * width;
    assert_eq!(block_flops - no_flops, 2.0 * (products + attention));
}

/// A polynomial's score range is an output of the forward pass alone.
#[test]
fn score_ranges_are_written_once() {
    let attention = AttentionKind::GaussianPoly { squarings: 3, clamp: false };
    let case = case(Variant { attention, ..GPT2 }, Recompute::Block);
    let ops = &case.plan.phase(case.phase("train")).ops;
    let ranges = ops.iter().filter(|op| matches!(op, Op::Attention { range: Some(_), .. }));
    assert_eq!((ranges.count(), ops.iter().filter(|op| op.name() == "attention").count()), (2, 3));
}
