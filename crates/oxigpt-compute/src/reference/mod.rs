//! The oracle: every operator as plain loops in f64, straight from its formula.
//!
//! It exists to be believed, not to be fast. One vector per tensor, no arena, so that it does not depend on
//! the placement that other backends are tested with; and what a phase has not written yet is NaN, so that
//! reading it shows. Operators are pure functions of slices in the modules below; this one holds the tensors.

mod attention;
mod layers;
mod loss;
mod update;

use std::sync::Arc;

use crate::dropout::Mask;
use crate::{
    Backend, Builder, Data, DataMut, Dropout, Dtype, Error, Op, Plan, Precision, Role, Storage, Tensor,
    TensorId,
};

/// The elements of one tensor.
enum Values {
    Real(Vec<f64>),
    U32(Vec<u32>),
}

/// The backend `reference`.
pub struct Reference {
    plan: Arc<Plan>,
    values: Vec<Values>,
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}

impl Reference {
    /// A backend without a plan.
    pub fn new() -> Self {
        Reference { plan: Arc::new(Builder::new().finish()), values: Vec::new() }
    }

    fn real(&self, id: TensorId) -> &[f64] {
        match &self.values[id.index()] {
            Values::Real(v) => v,
            Values::U32(_) => panic!("`{}` holds integers", self.plan.tensor(id).name),
        }
    }

    fn u32(&self, id: TensorId) -> &[u32] {
        match &self.values[id.index()] {
            Values::U32(v) => v,
            Values::Real(_) => panic!("`{}` holds reals", self.plan.tensor(id).name),
        }
    }

    /// Stores what the tensor's type makes of the values.
    fn set(&mut self, id: TensorId, mut values: Vec<f64>) {
        let Tensor { name, dtype, .. } = self.plan.tensor(id);
        assert_eq!(values.len(), self.plan.tensor(id).len(), "wrong size for `{name}`");
        if *dtype == Dtype::Bf16 {
            values.iter_mut().for_each(|x| *x = f64::from(Precision::Bfloat16.round(*x as f32)));
        }
        self.values[id.index()] = Values::Real(values);
    }

    /// Sets what the tensor's storage makes of the values.
    fn set_rounded(&mut self, id: TensorId, values: Vec<f64>) {
        let kept = match self.plan.tensor(id).storage() {
            None => values,
            Some(storage) => {
                let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                values.chunks(self.width(id)).flat_map(|row| storage.kept(row)).collect()
            }
        };
        self.set(id, kept);
    }

    /// Overwrites a gradient, or adds to it.
    fn give(&mut self, id: TensorId, values: Vec<f64>, accumulate: bool) {
        let total = if accumulate { layers::add(self.real(id), &values) } else { values };
        self.set(id, total);
    }

    fn shape(&self, id: TensorId) -> &[usize] {
        &self.plan.tensor(id).shape
    }

    fn width(&self, id: TensorId) -> usize {
        self.plan.tensor(id).width()
    }

    /// Activations and weights of a matrix product.
    fn factors(&self, x: TensorId, w: TensorId) -> (Vec<f64>, Vec<f64>) {
        let bfloat16 = |x: &f64| f64::from(Precision::Bfloat16.round(*x as f32));
        match self.plan.tensor(w).storage() {
            None => (self.factor(x), self.factor(w)),
            Some(Storage::Bfloat16) => (self.real(x).iter().map(bfloat16).collect(), self.real(w).to_vec()),
            Some(Storage::Float32 | Storage::Int8) => (self.real(x).to_vec(), self.real(w).to_vec()),
        }
    }

    /// The operand of a matrix product.
    fn factor(&self, id: TensorId) -> Vec<f64> {
        self.real(id).iter().map(|&x| self.round(x)).collect()
    }

    fn round(&self, x: f64) -> f64 {
        match self.plan.precision() {
            Precision::Float32 => x,
            precision => f64::from(precision.round(x as f32)),
        }
    }

    fn mask(&self, dropout: &Dropout) -> MaskF64 {
        let rng = self.u32(dropout.rng);
        let mask = Mask::new(dropout, &[rng[0], rng[1], rng[2], rng[3]]);
        MaskF64 { mask, first: u64::from(rng[3]), scale: 1.0 / (1.0 - f64::from(dropout.p)) }
    }

    fn forward(&mut self, op: &Op) {
        match *op {
            Op::Embed { tokens, positions, wte, wpe, out } => {
                let positions = positions.map(|positions| self.u32(positions));
                let (t, c) = (self.shape(out)[1], self.width(out));
                let out_btc =
                    layers::embed(self.u32(tokens), positions, self.real(wte), self.real(wpe), t, c);
                self.set(out, out_btc);
            }
            Op::Add { a, b, out } => self.set(out, layers::add(self.real(a), self.real(b))),
            Op::Scale { x, factor, out } => {
                self.set(out, self.real(x).iter().map(|x| factor * x).collect());
            }
            Op::LayerNorm { x, residual, weight, bias, out, mean, rstd } => {
                if let Some((delta, sum)) = residual {
                    self.set(sum, layers::add(self.real(x), self.real(delta)));
                }
                let x_nc = self.real(residual.map_or(x, |(_, sum)| sum));
                let (out_nc, mean_n, rstd_n) =
                    layers::layer_norm(x_nc, self.real(weight), bias.map(|b| self.real(b)));
                self.set(out, out_nc);
                self.set(mean, mean_n);
                self.set(rstd, rstd_n);
            }
            Op::Linear { x, w, layout, bias, gelu, out } => {
                let (c, o) = (self.width(x), self.width(out));
                let bias = bias.map(|b| self.real(b));
                let (x_nc, w) = self.factors(x, w);
                let y_no = layers::linear(&x_nc, &w, layout, bias, c, o);
                if let Some((kind, before)) = gelu {
                    self.set(before, y_no);
                    self.set(out, self.real(before).iter().map(|&x| layers::gelu(x, kind)).collect());
                } else {
                    self.set(out, y_no);
                }
            }
            Op::Gelu { x, kind, out } => {
                self.set(out, self.real(x).iter().map(|&x| layers::gelu(x, kind)).collect());
            }
            Op::Dropout { x, ref dropout, out } => {
                let (t, c) = (self.shape(x)[1], self.width(x));
                self.set(out, layers::dropout(self.real(x), &self.mask(dropout), t, c));
            }
            Op::SelectRow { x, row, out } => {
                let (t, c, row) = (self.shape(x)[1], self.width(x), self.u32(row)[0] as usize);
                let rows = self.real(x).chunks(t * c).flat_map(|x_tc| &x_tc[row * c..(row + 1) * c]);
                self.set(out, rows.copied().collect());
            }
            _ => unreachable!("`{}` is no forward operator", op.name()),
        }
    }

    fn backward(&mut self, op: &Op) {
        match *op {
            Op::EmbedBackward { tokens, dout, dwte, dwpe, accumulate_wte, accumulate_wpe } => {
                let (t, c) = (self.shape(tokens)[1], self.width(dout));
                let (words, positions) = (self.shape(dwte)[0], self.shape(dwpe)[0]);
                let (dwte_vc, dwpe_tc) =
                    layers::embed_backward(self.u32(tokens), self.real(dout), words, positions, t, c);
                self.give(dwte, dwte_vc, accumulate_wte);
                self.give(dwpe, dwpe_tc, accumulate_wpe);
            }
            Op::LayerNormBackward { dout, addend, x, weight, mean, rstd, dx, dweight, dbias, accumulate } => {
                let (mut dx_nc, dweight_c, dbias_c) = layers::layer_norm_backward(
                    self.real(dout),
                    self.real(x),
                    self.real(weight),
                    self.real(mean),
                    self.real(rstd),
                );
                if let Some(addend) = addend {
                    dx_nc = layers::add(&dx_nc, self.real(addend));
                }
                self.set(dx, dx_nc);
                if let Some(dweight) = dweight {
                    self.give(dweight, dweight_c, accumulate);
                }
                if let Some(dbias) = dbias {
                    self.give(dbias, dbias_c, accumulate);
                }
            }
            Op::LinearBackwardInput { dout, w, layout, gelu, dx } => {
                let (c, o) = (self.width(dx), self.width(dout));
                let mut dx_nc =
                    layers::linear_backward_input(&self.factor(dout), &self.factor(w), layout, c, o);
                if let Some((kind, before)) = gelu {
                    let pairs = dx_nc.iter_mut().zip(self.real(before));
                    pairs.for_each(|(dx, &x)| *dx *= layers::gelu_derivative(x, kind));
                }
                self.set(dx, dx_nc);
            }
            Op::LinearBackwardWeight { dout, x, layout, dw, dbias, accumulate_w, accumulate_bias } => {
                let (c, o) = (self.width(x), self.width(dout));
                let dw_values =
                    layers::linear_backward_weight(&self.factor(dout), &self.factor(x), layout, c, o);
                self.give(dw, dw_values, accumulate_w);
                if let Some(dbias) = dbias {
                    self.give(dbias, layers::column_sums(self.real(dout), o), accumulate_bias);
                }
            }
            Op::GeluBackward { x, kind, dout, dx } => {
                let pairs = self.real(x).iter().zip(self.real(dout));
                self.set(dx, pairs.map(|(&x, dout)| layers::gelu_derivative(x, kind) * dout).collect());
            }
            _ => unreachable!("`{}` is no adjoint", op.name()),
        }
    }

    fn attention(&mut self, op: &Op) {
        match *op {
            Op::Attention { qkv, n_head, kind, dropout, out, lse, range } => {
                let dims = attention::Dims::of(self.shape(qkv), n_head);
                let mask = dropout.map(|d| self.mask(&d));
                let attended = attention::attention(self.real(qkv), dims, kind, mask.as_ref());
                self.set(out, attended.out_btc);
                if let Some(lse) = lse {
                    self.set(lse, attended.lse_bht);
                }
                if let Some(range) = range {
                    self.set(range, attended.range_bht2);
                }
            }
            Op::CachedAttention { qkv, k_cache, v_cache, places, lengths, n_head, kind, out } => {
                let dims = attention::Dims::of(self.shape(qkv), n_head);
                let lengths = lengths.map_or(&[][..], |lengths| self.u32(lengths));
                let places = (self.u32(places.texts), self.u32(places.positions));
                let (mut k_bsc, mut v_bsc) = (self.real(k_cache).to_vec(), self.real(v_cache).to_vec());
                let caches = (&mut k_bsc[..], &mut v_bsc[..]);
                let out_btc = attention::cached_attention(
                    self.real(qkv),
                    caches,
                    (places, lengths),
                    self.shape(k_cache)[1],
                    dims,
                    kind,
                );
                self.set(k_cache, k_bsc);
                self.set(v_cache, v_bsc);
                self.set(out, out_btc);
            }
            Op::AttentionBackward { qkv, dout, n_head, kind, ref dropout, dqkv, .. } => {
                let dims = attention::Dims::of(self.shape(qkv), n_head);
                let mask = dropout.map(|d| self.mask(&d));
                let dqkv_btc =
                    attention::attention_backward(self.real(qkv), self.real(dout), dims, kind, mask.as_ref());
                self.set(dqkv, dqkv_btc);
            }
            _ => unreachable!("`{}` is no attention", op.name()),
        }
    }

    fn loss_and_update(&mut self, op: &Op) {
        match op {
            Op::Classifier { x, w, targets, vocab_size, losses, grad, .. } => {
                let (x_nc, w_vc) = self.factors(*x, *w);
                let scale = grad.map_or(0.0, |g| g.scale);
                let (targets_n, c) = (self.u32(*targets), self.width(*x));
                let round = |dz| self.round(dz);
                let result = loss::classifier(&x_nc, &w_vc, targets_n, *vocab_size, scale, c, round);
                self.set(*losses, result.losses_n);
                if let Some(grad) = grad {
                    self.set(grad.dx, result.dx_nc);
                    if let Some(dw) = grad.dw {
                        self.give(dw, result.dw_vc, grad.accumulate);
                    }
                }
            }
            Op::SquaredError { x, target, losses, grad } => {
                let scale = grad.map_or(0.0, |g| g.scale);
                let (losses_n, dx_nc) =
                    loss::squared_error(self.real(*x), self.real(*target), scale, self.width(*x));
                self.set(*losses, losses_n);
                if let Some(grad) = grad {
                    self.set(grad.dx, dx_nc);
                }
            }
            Op::GradNorm { gradients, norm } => {
                let squares = gradients.iter().flat_map(|&g| self.real(g)).map(|g| g * g);
                self.set(*norm, vec![squares.sum::<f64>().sqrt()]);
            }
            Op::AdamW { slots, norm, schedule, config } => {
                let clip = update::clip_factor(self.real(*norm)[0], config.grad_clip);
                for slot in slots {
                    let (parameter, m, v) = update::adamw(
                        self.real(slot.parameter),
                        self.real(slot.gradient),
                        self.real(slot.m),
                        self.real(slot.v),
                        clip,
                        slot.decay,
                        self.real(*schedule),
                        config,
                    );
                    self.set(slot.parameter, parameter);
                    self.set(slot.m, m);
                    self.set(slot.v, v);
                }
            }
            _ => unreachable!("`{}` is neither loss nor update", op.name()),
        }
    }
}

/// A mask with its factor in f64, and the sequence its micro-batch begins with.
struct MaskF64 {
    mask: Mask,
    first: u64,
    scale: f64,
}

impl MaskF64 {
    /// Factor of an element: `1 / (1 - p)`, or zero.
    fn factor(&self, row: u64, column: usize) -> f64 {
        if self.mask.factor(row as u32, column) == 0.0 { 0.0 } else { self.scale }
    }
}

/// Zero, or NaN for what a phase must write before it reads; `None` where memory does not suffice.
fn initial(tensor: &Tensor) -> Option<Values> {
    match (tensor.role, tensor.dtype) {
        // The classifier here keeps one row of logits of its own.
        (Role::Workspace, _) => Some(Values::Real(Vec::new())),
        (_, Dtype::U32) => filled(tensor.len(), 0).map(Values::U32),
        (role, _) if role.is_transient() => filled(tensor.len(), f64::NAN).map(Values::Real),
        _ => filled(tensor.len(), 0.0).map(Values::Real),
    }
}

fn filled<T: Copy>(len: usize, value: T) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    values.resize(len, value);
    Some(values)
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn prepare(&mut self, plan: Arc<Plan>) -> Result<(), Error> {
        let bytes = 2 * plan.arena_bytes();
        let values: Option<Vec<Values>> = plan.tensors().map(|(_, tensor)| initial(tensor)).collect();
        self.values = values.ok_or(Error::OutOfMemory { backend: "reference", bytes })?;
        self.plan = plan;
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        let held = self.values.iter().map(|values| match values {
            Values::Real(v) => size_of_val(v.as_slice()),
            Values::U32(v) => size_of_val(v.as_slice()),
        });
        held.sum()
    }

    fn upload(&mut self, tensor: TensorId, data: Data) -> Result<(), Error> {
        match data {
            Data::F32(d) => self.set_rounded(tensor, d.iter().map(|&x| f64::from(x)).collect()),
            Data::F64(d) => self.set_rounded(tensor, d.to_vec()),
            Data::U32(d) => self.values[tensor.index()] = Values::U32(d.to_vec()),
        }
        Ok(())
    }

    fn download(&self, tensor: TensorId, data: DataMut) -> Result<(), Error> {
        let values = self.real(tensor);
        match data {
            DataMut::F64(out) => out.copy_from_slice(values),
            DataMut::F32(out) => out.iter_mut().zip(values).for_each(|(out, &x)| *out = x as f32),
        }
        Ok(())
    }

    fn execute(&mut self, op: &Op) {
        match op {
            Op::Embed { .. }
            | Op::Add { .. }
            | Op::Scale { .. }
            | Op::LayerNorm { .. }
            | Op::Linear { .. }
            | Op::Gelu { .. }
            | Op::Dropout { .. }
            | Op::SelectRow { .. } => self.forward(op),
            Op::EmbedBackward { .. }
            | Op::LayerNormBackward { .. }
            | Op::LinearBackwardInput { .. }
            | Op::LinearBackwardWeight { .. }
            | Op::GeluBackward { .. } => self.backward(op),
            Op::Attention { .. } | Op::AttentionBackward { .. } | Op::CachedAttention { .. } => {
                self.attention(op);
            }
            Op::Classifier { .. } | Op::SquaredError { .. } | Op::GradNorm { .. } | Op::AdamW { .. } => {
                self.loss_and_update(op);
            }
        }
    }
}
