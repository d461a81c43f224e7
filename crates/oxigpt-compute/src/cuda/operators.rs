//! Every operator as launches of kernels and products. The arguments of a kernel are listed at the top of its file.
//!
//! Legend: B batch, T positions, N = B*T rows, C width.

use super::attention;
use super::driver::{Argument, GpuInfo};
use super::error::CudaError;
use super::kernels::{File, Variant};
use super::launch::{BLOCK, Grid, Launcher, NULL, int, long};
use super::layout::Layout;
use super::linear;
use super::tables;
use crate::{Dropout, Gelu, Op, Plan, TensorId};

/// What kernels call a GELU.
pub(super) fn gelu_number(kind: Option<Gelu>) -> Argument {
    Argument::Int(match kind {
        None => 0,
        Some(Gelu::Tanh) => 1,
        Some(Gelu::Erf) => 2,
    })
}

/// Blocks of the adjoint of a layer norm over so many rows, each with sums of its own.
fn norm_parts(rows: usize) -> usize {
    rows.div_ceil(8).min(512)
}

/// Blocks, one above the other, of sums over columns of so many rows.
pub(super) fn column_parts(rows: usize) -> usize {
    rows.div_ceil(64).min(128)
}

/// Refuses a plan with an operator that no kernel can do on a GPU.
pub(super) fn check(plan: &Plan, layout: &Layout, gpu: &GpuInfo) -> Result<(), CudaError> {
    plan.phases().flat_map(|(_, phase)| &phase.ops).try_for_each(|op| attention::check(plan, layout, op, gpu))
}

/// Bytes of scratch memory that the operators of a plan need at most.
pub(super) fn scratch_bytes(plan: &Plan) -> usize {
    let of_op = |op: &Op| match op {
        Op::EmbedBackward { tokens, .. } => 4 * plan.tensor(*tokens).len(),
        Op::LayerNormBackward { dout, .. } => {
            let dout = plan.tensor(*dout);
            4 * norm_parts(dout.rows()) * 2 * dout.width()
        }
        Op::LinearBackwardWeight { dout, dbias: Some(_), .. } => {
            let dout = plan.tensor(*dout);
            4 * column_parts(dout.rows()) * dout.width()
        }
        Op::AttentionBackward { softmax: Some((_, lse)), .. } => 4 * plan.tensor(*lse).len(),
        Op::Linear { .. } | Op::Classifier { .. } => linear::scratch_bytes(plan, op),
        Op::GradNorm { gradients, .. } => {
            let lens: Vec<usize> = gradients.iter().map(|&id| plan.tensor(id).len()).collect();
            8 * tables::count(&lens)
        }
        _ => 0,
    };
    plan.phases().flat_map(|(_, phase)| &phase.ops).map(of_op).max().unwrap_or(0)
}

impl Launcher<'_> {
    /// Puts one operator on the stream.
    pub(super) fn operator(&mut self, op: &Op) -> Result<(), CudaError> {
        match op {
            Op::Attention { .. } | Op::AttentionBackward { .. } | Op::CachedAttention { .. } => {
                attention::operator(self, op)
            }
            Op::Linear { .. } | Op::LinearBackwardInput { .. } | Op::LinearBackwardWeight { .. } => {
                linear::operator(self, op)
            }
            Op::Classifier { .. } => linear::classifier(self, op),
            Op::LayerNorm { .. } | Op::LayerNormBackward { .. } => self.norm(op),
            Op::Embed { .. } | Op::EmbedBackward { .. } => self.embed(op),
            Op::GradNorm { .. } | Op::AdamW { .. } => self.update(op),
            _ => self.elementwise(op),
        }
    }

    fn elementwise(&mut self, op: &Op) -> Result<(), CudaError> {
        const FILE: File = File::Elementwise;
        let n = |this: &Self, id: TensorId| this.tensor(id).len();
        match *op {
            Op::Add { a, b, out } => {
                let (n, grid) = (long(n(self, out)), Grid::over(n(self, out)));
                let [out, a, b] = [out, a, b].map(|id| self.pointer(id));
                self.kernel(FILE, "add", grid, &[out, a, b, n])
            }
            Op::Scale { x, factor, out } => {
                let (n, grid) = (long(n(self, out)), Grid::over(n(self, out)));
                let [out, x] = [out, x].map(|id| self.pointer(id));
                self.kernel(FILE, "scale", grid, &[out, x, n, Argument::Float(factor as f32)])
            }
            Op::SquaredError { x, target, losses, grad } => {
                let (rows, c) = (self.tensor(x).rows(), self.tensor(x).width());
                let dx = self.optional(grad.map(|grad| grad.dx));
                let scale = Argument::Float(grad.map_or(0.0, |grad| 2.0 * grad.scale as f32 / c as f32));
                let [losses, x, target] = [losses, x, target].map(|id| self.pointer(id));
                let arguments = [dx, losses, x, target, int(rows), int(c), scale];
                self.kernel(FILE, "squared_error", Grid::of(rows.div_ceil(8)), &arguments)
            }
            Op::Gelu { x, kind, out } => {
                let (n, grid) = (long(n(self, out)), Grid::over(n(self, out)));
                let [out, x] = [out, x].map(|id| self.pointer(id));
                self.kernel(FILE, "gelu", grid, &[out, x, n, gelu_number(Some(kind))])
            }
            Op::GeluBackward { x, kind, dout, dx } => {
                let (n, grid) = (long(n(self, dx)), Grid::over(n(self, dx)));
                let [dx, x, dout] = [dx, x, dout].map(|id| self.pointer(id));
                self.kernel(FILE, "gelu_backward", grid, &[dx, x, dout, n, gelu_number(Some(kind))])
            }
            Op::Dropout { x, ref dropout, out } => {
                let (rows, t, c) = (self.tensor(x).rows(), self.tensor(x).shape[1], self.tensor(x).width());
                let grid = Grid::of((rows * c.div_ceil(8)).div_ceil(BLOCK));
                let [rng, site, threshold, scale] = self.dropout(Some(dropout));
                let [out, x] = [out, x].map(|id| self.pointer(id));
                let arguments = [out, x, rng, long(rows), int(t), int(c), site, threshold, scale];
                self.kernel(FILE, "dropout", grid, &arguments)
            }
            Op::SelectRow { x, row, out } => {
                let [batch, t] = [0, 1].map(|i| self.tensor(x).shape[i]);
                let c = self.tensor(x).width();
                let grid = Grid { blocks: [Grid::over(c).blocks[0], batch, 1], ..Grid::over(c) };
                let [out, x, row] = [out, x, row].map(|id| self.pointer(id));
                self.kernel(FILE, "select_row", grid, &[out, x, row, int(t), int(c)])
            }
            _ => unreachable!("has a family of its own"),
        }
    }

    /// Counters, site, threshold and scale of a dropout, as kernels take them.
    pub(super) fn dropout(&self, dropout: Option<&Dropout>) -> [Argument; 4] {
        let Some(dropout) = dropout else {
            return [NULL, Argument::Unsigned(0), Argument::Unsigned(0), Argument::Float(1.0)];
        };
        let mask = crate::dropout::Mask::new(dropout, &[0; 4]);
        [
            self.pointer(dropout.rng),
            Argument::Unsigned(dropout.site),
            Argument::Unsigned(mask.threshold()),
            Argument::Float(mask.scale),
        ]
    }

    fn norm(&mut self, op: &Op) -> Result<(), CudaError> {
        match *op {
            Op::LayerNorm { x, residual, weight, bias, out, mean, rstd } => {
                let (rows, c) = (self.tensor(x).rows(), self.tensor(x).width());
                let warps = (8192 / c).clamp(1, 8);
                let blocks = [rows.div_ceil(warps), 1, 1];
                let grid =
                    Grid { blocks, threads: 32 * warps, shared_bytes: 4 * warps * c.next_multiple_of(8) };
                let [delta, sum] = [residual.map(|r| r.0), residual.map(|r| r.1)].map(|id| self.optional(id));
                let [out, mean, rstd, x, weight] = [out, mean, rstd, x, weight].map(|id| self.pointer(id));
                let bias = self.optional(bias);
                let arguments = [out, mean, rstd, x, delta, sum, weight, bias, int(rows), int(c)];
                self.kernel(File::Norm, "layer_norm", grid, &arguments)
            }
            Op::LayerNormBackward { dout, addend, x, weight, mean, rstd, dx, dweight, dbias, accumulate } => {
                let (rows, c) = (self.tensor(x).rows(), self.tensor(x).width());
                let parts = norm_parts(rows);
                let grid = Grid { shared_bytes: 8 * c.next_multiple_of(8), ..Grid::of(parts) };
                let partials = self.scratch(0);
                let addend = self.optional(addend);
                let [dx, dout, x, weight] = [dx, dout, x, weight].map(|id| self.pointer(id));
                let [mean, rstd] = [mean, rstd].map(|id| self.pointer(id));
                let arguments = [dx, partials, dout, addend, x, weight, mean, rstd, int(rows), int(c)];
                self.kernel(File::Norm, "layer_norm_backward", grid, &arguments)?;
                let mut sum_up = |out: Option<TensorId>, first| {
                    out.map_or(Ok(()), |out| self.reduce_parts(out, first, [parts, 2 * c, c], accumulate))
                };
                sum_up(dweight, 0)?;
                sum_up(dbias, c)
            }
            _ => unreachable!("not a layer norm"),
        }
    }

    /// Adds up partial sums in scratch memory, from an element on: `c` columns of `parts` rows `stride` apart.
    pub(super) fn reduce_parts(
        &mut self,
        out: TensorId,
        first: usize,
        [parts, stride, c]: [usize; 3],
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let (out, partials) = (self.pointer(out), self.scratch(4 * first));
        let sizes = [parts, stride, c].map(int);
        let arguments = [out, partials, sizes[0], sizes[1], sizes[2], int(accumulate.into())];
        self.kernel(File::Norm, "reduce_parts", Grid::of(c.div_ceil(32)), &arguments)
    }

    fn embed(&mut self, op: &Op) -> Result<(), CudaError> {
        match *op {
            Op::Embed { tokens, positions, wte, wpe, out } => {
                let (rows, t) = (self.tensor(tokens).len(), self.tensor(tokens).width());
                let c = self.tensor(out).width();
                let variant = Variant { weights: self.matrix(wte).element, ..File::Embed.into() };
                let (positions, scales) = (self.optional(positions), self.scales(wte));
                let [out, tokens, wte, wpe] = [out, tokens, wte, wpe].map(|id| self.pointer(id));
                let arguments = [out, tokens, positions, wte, scales, wpe, int(rows), int(t), int(c)];
                self.kernel(variant, "embed", Grid::of(rows.div_ceil(8)), &arguments)
            }
            Op::EmbedBackward { tokens, dout, dwte, dwpe, accumulate_wte, accumulate_wpe } => {
                let (rows, t) = (self.tensor(tokens).len(), self.tensor(tokens).width());
                let c = self.tensor(dout).width();
                let positions = self.tensor(dwpe).rows();
                if !accumulate_wte {
                    self.gpu.zero(self.address(dwte), 4 * self.tensor(dwte).len())?;
                }
                let order = self.scratch(0);
                let [tokens, dout, dwte, dwpe] = [tokens, dout, dwte, dwpe].map(|id| self.pointer(id));
                let arguments = [order, tokens, int(rows)];
                self.kernel(File::Embed, "embed_order", Grid::of(rows.div_ceil(BLOCK)), &arguments)?;
                let narrow = |blocks| Grid { threads: 128, ..Grid::of(blocks) };
                let arguments = [dwte, dout, tokens, order, int(rows), int(c)];
                self.kernel(File::Embed, "embed_backward_wte", narrow(rows), &arguments)?;
                let arguments = [dwpe, dout, int(rows / t), int(t), int(c), int(accumulate_wpe.into())];
                self.kernel(File::Embed, "embed_backward_wpe", narrow(positions), &arguments)
            }
            _ => unreachable!("not an embedding"),
        }
    }

    fn update(&mut self, op: &Op) -> Result<(), CudaError> {
        let table = self.prepared.tables.of(op);
        let (slots, chunks) = (Argument::Pointer(table.slots), Argument::Pointer(table.chunks));
        let n_chunks = table.n_chunks;
        match op {
            Op::GradNorm { norm, .. } => {
                let (partials, norm) = (self.scratch(0), self.pointer(*norm));
                self.kernel(File::Update, "squares", Grid::of(n_chunks), &[partials, slots, chunks])?;
                let grid = Grid { threads: 1024, ..Grid::of(1) };
                self.kernel(File::Update, "grad_norm", grid, &[norm, partials, int(n_chunks)])
            }
            Op::AdamW { norm, schedule, config, .. } => {
                let [norm, schedule] = [*norm, *schedule].map(|id| self.pointer(id));
                let constants =
                    [config.beta1, config.beta2, config.eps, config.weight_decay, config.grad_clip];
                let [beta1, beta2, eps, decay, clip] = constants.map(Argument::Double);
                let arguments = [slots, chunks, norm, schedule, beta1, beta2, eps, decay, clip];
                self.kernel(File::Update, "adamw", Grid::of(n_chunks), &arguments)
            }
            _ => unreachable!("not part of the update"),
        }
    }
}
