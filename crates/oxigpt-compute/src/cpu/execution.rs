//! One operator at work: its operands are looked up in the arena and handed to the function of its kind.

use super::memory::{Arena, Reals, Shared};
use super::pool::Pool;
use super::products::Products;
use super::{
    Scratch, attention, attention_backward, cached_attention, classifier, elementwise, embed, linear, norm,
    optimizer, stored_matrix,
};
use crate::dropout::Mask;
use crate::{AttentionKind, Dropout, Op, TensorId, WeightLayout};

/// One operator at work.
pub(super) struct Execution<'a> {
    pub(super) pool: &'a mut Pool,
    pub(super) arena: &'a Arena,
    pub(super) scratch: &'a mut Scratch,
}

impl<'a> Execution<'a> {
    fn real(&self, id: TensorId) -> Shared<'a> {
        self.arena.real(id)
    }

    fn reals(&self, id: TensorId) -> Reals<'a> {
        self.arena.reals(id)
    }

    /// A whole tensor that this operator only reads.
    fn read(&self, id: TensorId) -> &'a [f32] {
        // SAFETY: placement keeps tensors that live together apart, and an operator writes none that it reads.
        unsafe { self.arena.real(id).all() }
    }

    fn scalar(&self, id: TensorId) -> usize {
        self.arena.integers(id)[0] as usize
    }

    fn shape(&self, id: TensorId) -> &'a [usize] {
        &self.arena.plan().tensor(id).shape
    }

    fn width(&self, id: TensorId) -> usize {
        self.arena.plan().tensor(id).width()
    }

    fn heads(&self, qkv: TensorId, n_head: usize, kind: AttentionKind) -> attention::Shape {
        let shape = self.shape(qkv);
        attention::Shape { kind, batch: shape[0], t: shape[1], n_head, d: shape[2] / 3 / n_head }
    }

    /// The mask of a dropout, and the first sequence of this micro-batch.
    fn mask(&self, dropout: &Dropout) -> (Mask, usize) {
        let counters: &[u32; 4] = self.arena.integers(dropout.rng).try_into().expect("four counters");
        (Mask::new(dropout, counters), counters[3] as usize)
    }

    fn weight_dropout(&self, dropout: Option<&Dropout>) -> Option<attention::WeightDropout> {
        dropout.map(|dropout| {
            let (mask, first) = self.mask(dropout);
            attention::WeightDropout { mask, first }
        })
    }

    pub(super) fn execute(mut self, op: &Op) {
        match op {
            Op::Attention { .. } | Op::AttentionBackward { .. } | Op::CachedAttention { .. } => {
                self.attention(op);
            }
            Op::LayerNorm { .. } | Op::LayerNormBackward { .. } => self.norm(op),
            Op::Linear { .. } | Op::LinearBackwardInput { .. } | Op::LinearBackwardWeight { .. } => {
                self.linear(op);
            }
            Op::Classifier { .. } => self.classifier(op),
            Op::GradNorm { .. } | Op::AdamW { .. } => self.update(op),
            _ => self.elementwise(op),
        }
    }

    fn attention(&mut self, op: &Op) {
        match *op {
            Op::Attention { qkv, n_head, kind, ref dropout, out, lse, range } => attention::attention(
                self.pool,
                self.heads(qkv, n_head, kind),
                attention::Forward {
                    qkv: self.reals(qkv),
                    out: self.reals(out),
                    lse: lse.map(|lse| self.real(lse)),
                    range: range.map(|range| self.real(range)),
                },
                self.weight_dropout(dropout.as_ref()),
                Shared::of(&mut self.scratch.attention),
            ),
            Op::AttentionBackward { qkv, softmax, dout, n_head, kind, ref dropout, dqkv } => {
                let operands = attention_backward::Backward {
                    qkv: self.reals(qkv),
                    softmax: softmax.map(|(out, lse)| (self.reals(out), self.read(lse))),
                    dout: self.reals(dout),
                    dqkv: self.reals(dqkv),
                };
                let (shape, dropout) = (self.heads(qkv, n_head, kind), self.weight_dropout(dropout.as_ref()));
                let scratch = Shared::of(&mut self.scratch.attention);
                attention_backward::attention_backward(self.pool, shape, operands, dropout, scratch);
            }
            Op::CachedAttention { qkv, k_cache, v_cache, places, lengths, n_head, kind, out } => {
                let arena = self.arena;
                let [texts, s, _] = *self.shape(k_cache) else {
                    unreachable!("a cache has three dimensions")
                };
                let cache = cached_attention::Cache {
                    k: arena.real(k_cache),
                    v: arena.real(v_cache),
                    shape: [texts, s],
                    lengths: lengths.map_or(&[][..], |lengths| arena.integers(lengths)),
                };
                let places = cached_attention::Places {
                    texts: arena.integers(places.texts),
                    positions: arena.integers(places.positions),
                };
                let (operands, shape) = ((arena.real(qkv), arena.real(out)), self.heads(qkv, n_head, kind));
                let scratch = Shared::of(&mut self.scratch.attention);
                cached_attention::cached_attention(self.pool, shape, operands, cache, places, scratch);
            }
            _ => unreachable!("not an attention"),
        }
    }

    fn norm(&mut self, op: &Op) {
        match *op {
            Op::LayerNorm { x, residual, weight, bias, out, mean, rstd } => {
                let operands = norm::Norm {
                    x: self.real(x),
                    residual: residual.map(|(delta, sum)| (self.reals(delta), self.real(sum))),
                    weight: self.read(weight),
                    bias: bias.map(|b| self.read(b)),
                    out: self.reals(out),
                    mean: self.real(mean),
                    rstd: self.real(rstd),
                };
                norm::layer_norm(self.pool, &operands);
            }
            Op::LayerNormBackward { dout, addend, x, weight, mean, rstd, dx, dweight, dbias, accumulate } => {
                let operands = norm::NormBackward {
                    dout: self.reals(dout),
                    addend: addend.map(|a| self.real(a)),
                    x: self.real(x),
                    weight: self.read(weight),
                    mean: self.read(mean),
                    rstd: self.read(rstd),
                    dx: self.real(dx),
                    dweight: dweight.map(|w| self.real(w)),
                    dbias: dbias.map(|b| self.real(b)),
                    accumulate,
                };
                norm::layer_norm_backward(self.pool, &operands, &mut self.scratch.partials);
            }
            _ => unreachable!("not a layer norm"),
        }
    }

    /// What multiplies, and memory for partial sums.
    fn products(&mut self) -> (Products<'_>, &mut [f32]) {
        let Scratch { packed, partials, .. } = &mut *self.scratch;
        (Products::new(self.pool, self.arena.plan().precision(), packed), partials)
    }

    fn linear(&mut self, op: &Op) {
        let arena = self.arena;
        match *op {
            Op::Linear { x, w, layout, bias, gelu, out } => {
                let bias = bias.map(|b| self.read(b));
                if let Some(w) = stored_matrix(arena, w) {
                    let gelu = gelu.map(|(kind, before)| (kind, arena.real(before)));
                    let (operands, out) = ((self.read(x), w, bias), arena.real(out));
                    return linear::linear_stored(self.pool, operands, gelu, out, &mut self.scratch.tiles);
                }
                let gelu = gelu.map(|(kind, before)| (kind, arena.reals(before)));
                let operands = (arena.reals(x), arena.real(w), bias);
                let sizes = sizes(arena, x, out, layout);
                let (mut products, partials) = self.products();
                linear::linear(&mut products, sizes, operands, gelu, arena.reals(out), partials);
            }
            Op::LinearBackwardInput { dout, w, layout, gelu, dx } => linear::backward_input(
                &mut self.products().0,
                sizes(arena, dx, dout, layout),
                (arena.reals(dout), arena.real(w)),
                gelu.map(|(kind, before)| (kind, arena.reals(before))),
                arena.reals(dx),
            ),
            Op::LinearBackwardWeight { dout, x, layout, dw, dbias, accumulate_w, accumulate_bias } => {
                linear::backward_weight(
                    &mut self.products().0,
                    sizes(arena, x, dout, layout),
                    (arena.reals(dout), arena.reals(x)),
                    (arena.real(dw), accumulate_w),
                );
                if let Some(dbias) = dbias {
                    let (dout, dbias) = (arena.reals(dout), arena.real(dbias));
                    let partials = &mut self.scratch.partials;
                    norm::column_sums(self.pool, dout, dbias, accumulate_bias, partials);
                }
            }
            _ => unreachable!("not a linear layer"),
        }
    }

    fn classifier(&mut self, op: &Op) {
        let Op::Classifier { x, w, targets, vocab_size, logits, losses, grad } = *op else {
            unreachable!("not a classifier")
        };
        if let Some(w) = stored_matrix(self.arena, w) {
            let targets = (self.arena.integers(targets), vocab_size);
            let results = (self.real(logits), self.real(losses));
            let (operands, tiles) = ((self.read(x), w), &mut self.scratch.tiles);
            return classifier::classifier_stored(self.pool, operands, targets, results, tiles);
        }
        let operands = classifier::Classifier {
            x: self.reals(x),
            w: self.real(w),
            targets: self.arena.integers(targets),
            vocab_size,
            width: self.width(x),
            logits: self.real(logits),
            losses: self.real(losses),
            grad: grad.map(|grad| classifier::Grad {
                dx: self.real(grad.dx),
                dw: grad.dw.map(|dw| self.real(dw)),
                scale: grad.scale as f32,
                accumulate: grad.accumulate,
            }),
        };
        classifier::classifier(&mut self.products().0, &operands);
    }

    fn update(&mut self, op: &Op) {
        let arena = self.arena;
        match op {
            Op::GradNorm { gradients, norm } => {
                let Scratch { chunks, squares, .. } = &mut *self.scratch;
                optimizer::grad_norm(
                    self.pool,
                    chunks,
                    |i| arena.real(gradients[i]),
                    squares,
                    arena.real(*norm),
                );
            }
            Op::AdamW { slots, norm, schedule, config } => {
                let step = optimizer::Step::new(config, self.read(*norm)[0], self.read(*schedule));
                optimizer::adamw(self.pool, &self.scratch.chunks, &step, |i| optimizer::Slot {
                    parameter: arena.real(slots[i].parameter),
                    gradient: arena.real(slots[i].gradient),
                    m: arena.real(slots[i].m),
                    v: arena.real(slots[i].v),
                    decay: slots[i].decay,
                });
            }
            _ => unreachable!("not part of the update"),
        }
    }

    fn elementwise(&mut self, op: &Op) {
        match *op {
            Op::Embed { tokens, positions, wte, wpe, out } => {
                let positions = positions.map(|positions| self.arena.integers(positions));
                let (ids, t) = (self.arena.integers(tokens), self.shape(tokens)[1]);
                let words = match stored_matrix(self.arena, wte) {
                    Some(wte) => embed::Words::Stored(wte),
                    None => embed::Words::Real(self.real(wte)),
                };
                embed::embed(self.pool, (ids, t, positions), (words, self.real(wpe)), self.real(out));
            }
            Op::EmbedBackward { tokens, dout, dwte, dwpe, accumulate_wte, accumulate_wpe } => {
                let (ids, t) = (self.arena.integers(tokens), self.shape(tokens)[1]);
                let words = embed::Table { gradient: self.real(dwte), accumulate: accumulate_wte };
                let places = embed::Table { gradient: self.real(dwpe), accumulate: accumulate_wpe };
                embed::embed_backward(self.pool, (ids, t), self.real(dout), words, places);
            }
            Op::Add { a, b, out } => elementwise::add(self.pool, self.real(a), self.real(b), self.real(out)),
            Op::Scale { x, factor, out } => {
                elementwise::scale(self.pool, factor as f32, self.real(x), self.real(out));
            }
            Op::SquaredError { x, target, losses, grad } => elementwise::squared_error(
                self.pool,
                (self.real(x), self.real(target)),
                self.real(losses),
                grad.map(|grad| (self.real(grad.dx), grad.scale as f32)),
                self.width(x),
            ),
            Op::Gelu { x, kind, out } => elementwise::gelu(self.pool, kind, self.reals(x), self.reals(out)),
            Op::GeluBackward { x, kind, dout, dx } => {
                elementwise::gelu_backward(self.pool, kind, self.reals(x), self.reals(dout), self.reals(dx));
            }
            Op::Dropout { x, ref dropout, out } => {
                let (mask, first) = self.mask(dropout);
                let first_row = (first * self.shape(x)[1]) as u32;
                elementwise::dropout(
                    self.pool,
                    mask,
                    first_row,
                    self.reals(x),
                    self.reals(out),
                    self.width(x),
                );
            }
            Op::SelectRow { x, row, out } => {
                let (t, width, row) = (self.shape(x)[1], self.width(x), self.scalar(row));
                elementwise::select_row(self.real(x), self.real(out), t, width, row);
            }
            _ => unreachable!("has a family of its own"),
        }
    }
}

/// Sizes of the linear layer from `x` to `out`.
fn sizes(arena: &Arena, x: TensorId, out: TensorId, layout: WeightLayout) -> linear::Sizes {
    let (x, out) = (arena.plan().tensor(x), arena.plan().tensor(out));
    linear::Sizes { rows: x.rows(), n_in: x.width(), n_out: out.width(), layout }
}
