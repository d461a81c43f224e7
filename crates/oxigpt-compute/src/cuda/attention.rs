//! Causal attention: by cuDNN where it can, else by kernels of ours, on tensor cores in bfloat16 and on ordinary ones in
//! float32.

use super::cudnn;
use super::driver::{Argument, GpuInfo};
use super::error::CudaError;
use super::kernels::{AttentionVariant, File, Variant};
use super::launch::{BLOCK, Grid, Launcher, NULL, int};
use super::layout::{Element, Layout};
use crate::{Activation, AttentionKind, AttentionScale, Dropout, Op, Places, Plan, TensorId};

/// Widest head that the kernels for tensor cores, the general ones, and decoding can do.
const WIDEST: [usize; 3] = [128, 256, 1024];

/// Shared memory that `cached_attention` has beside what it is launched with.
const CACHED_OWN_BYTES: usize = 32;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) t: usize,
    pub(super) heads: usize,
    /// Width of a head.
    pub(super) d: usize,
}

impl Sizes {
    pub(super) fn of(plan: &Plan, qkv: TensorId, heads: usize) -> Sizes {
        let shape = &plan.tensor(qkv).shape;
        Sizes { batch: shape[0], t: shape[1], heads, d: shape[2] / 3 / heads }
    }

    /// One over the root of a head's width.
    fn scale(&self) -> Argument {
        Argument::Float(1.0 / (self.d as f32).sqrt())
    }
}

/// Refuses heads wider, and texts longer, than a block of any kernel can do on a GPU.
pub(super) fn check(plan: &Plan, layout: &Layout, op: &Op, gpu: &GpuInfo) -> Result<(), CudaError> {
    let device = || gpu.name.clone();
    match *op {
        Op::Attention { qkv, n_head, .. } | Op::AttentionBackward { qkv, n_head, .. } => {
            let (d, element) = (Sizes::of(plan, qkv, n_head).d, layout.element(qkv));
            let fits = |d: usize| {
                let tiling = Tiling::of(d, element);
                let bytes = match op {
                    Op::Attention { .. } => tiling.forward_bytes,
                    _ => tiling.backward_kv_bytes.max(tiling.backward_q_bytes),
                };
                d <= WIDEST[1] && bytes + tiling.own_bytes <= gpu.shared_bytes
            };
            let widest = || (1..d).rev().find(|&d| fits(d)).unwrap_or(0);
            if fits(d) { Ok(()) } else { Err(CudaError::WideHead { device: device(), d, widest: widest() }) }
        }
        Op::CachedAttention { qkv, n_head, k_cache, .. } => {
            let (d, positions) = (Sizes::of(plan, qkv, n_head).d, plan.tensor(k_cache).shape[1]);
            if d > WIDEST[2] {
                return Err(CudaError::WideHead { device: device(), d, widest: WIDEST[2] });
            }
            let most = (gpu.shared_bytes.saturating_sub(CACHED_OWN_BYTES) / 4).saturating_sub(8 * d);
            if positions <= most {
                Ok(())
            } else {
                Err(CudaError::LongCache { device: device(), positions, most, d })
            }
        }
        _ => Ok(()),
    }
}

/// How a file of kernels cuts an attention: rows and threads of a block, and its shared memory.
struct Tiling {
    file: File,
    rows: usize,
    threads: usize,
    /// Shared memory that every kernel may have beside what it is launched with.
    own_bytes: usize,
    forward_bytes: usize,
    backward_kv_bytes: usize,
    backward_q_bytes: usize,
}

impl Tiling {
    fn of(d: usize, element: Element) -> Tiling {
        if element == Element::Bf16 && d <= WIDEST[0] {
            let padded = d.next_multiple_of(16);
            let (row_bytes, keys) = (2 * (padded + 8), if padded <= 64 { 64 } else { 32 });
            let backward_bytes = (128 + 4 * keys) * row_bytes;
            return Tiling {
                file: File::Attention,
                rows: 64,
                threads: 128,
                own_bytes: 1792,
                forward_bytes: (64 + 4 * keys) * row_bytes,
                backward_kv_bytes: backward_bytes,
                backward_q_bytes: backward_bytes,
            };
        }
        let two_tiles = 64 * d + 64 * (d + 1);
        Tiling {
            file: File::AttentionGeneral,
            rows: 32,
            threads: BLOCK,
            own_bytes: 0,
            forward_bytes: 4 * (32 * d + 64 * (d + 1) + 8 * 4 * 32),
            backward_kv_bytes: 4 * (two_tiles + 8 * 8 * 32),
            backward_q_bytes: 4 * (two_tiles + 8 * 4 * 32),
        }
    }

    fn grid(&self, sizes: Sizes, shared_bytes: usize) -> Grid {
        let blocks = [sizes.t.div_ceil(self.rows), sizes.heads, sizes.batch];
        Grid { blocks, threads: self.threads, shared_bytes }
    }
}

/// What a kind is compiled as, and what its sums of weighted values are multiplied by in a text of `t` tokens.
fn variant(file: File, sizes: Sizes, kind: AttentionKind, dropout: bool) -> (Variant, Argument) {
    let (number, poly) = match kind {
        AttentionKind::Softmax => (0, 0),
        AttentionKind::Gaussian => (1, 0),
        AttentionKind::GaussianPoly { squarings, .. } => (2, squarings),
        AttentionKind::Pointwise { activation, .. } => (number_of(activation), 0),
    };
    let by_position = kind.scale() == Some(AttentionScale::Position);
    let attention =
        AttentionVariant { head: sizes.d, kind: number, poly, clamp: kind.clamp(), by_position, dropout };
    // Where queries are divided by their own positions, the kernel does it.
    let divisor = kind.divisor(0, sizes.t);
    (Variant { attention: Some(attention), ..file.into() }, Argument::Float(1.0 / divisor as f32))
}

/// The number of a pointwise kind in `kernels/attention.cuh`.
fn number_of(activation: Activation) -> u32 {
    match activation {
        Activation::Gelu => 3,
        Activation::Relu => 4,
        Activation::Sigmoid => 5,
        Activation::Square => 6,
        Activation::ReluSquare => 7,
    }
}

/// Puts an attention on the stream.
pub(super) fn operator(launcher: &mut Launcher, op: &Op) -> Result<(), CudaError> {
    if let Some(done) = cudnn::operator(launcher, op) {
        return done;
    }
    match *op {
        Op::Attention { qkv, n_head, kind, ref dropout, out, lse, range } => {
            let sizes = Sizes::of(&launcher.prepared.plan, qkv, n_head);
            let tiling = Tiling::of(sizes.d, launcher.prepared.layout.element(qkv));
            let (variant, out_scale) = variant(tiling.file, sizes, kind, dropout.is_some());
            let [rng, site, threshold, keep] = launcher.dropout(dropout.as_ref());
            let (out, stats, qkv) =
                (launcher.pointer(out), launcher.optional(lse.or(range)), launcher.pointer(qkv));
            let (t, heads, scale) = (int(sizes.t), int(sizes.heads), sizes.scale());
            let arguments = [out, stats, qkv, t, heads, scale, out_scale, rng, site, threshold, keep];
            launcher.kernel(variant, "attention", tiling.grid(sizes, tiling.forward_bytes), &arguments)
        }
        Op::AttentionBackward { qkv, softmax, dout, n_head, kind, ref dropout, dqkv } => {
            let sizes = Sizes::of(&launcher.prepared.plan, qkv, n_head);
            backward(launcher, sizes, kind, dropout.as_ref(), softmax, [qkv, dout, dqkv])
        }
        Op::CachedAttention { qkv, k_cache, v_cache, places, lengths, n_head, kind, out } => {
            let sizes = Sizes::of(&launcher.prepared.plan, qkv, n_head);
            cached(launcher, sizes, kind, (places, lengths), [qkv, k_cache, v_cache, out])
        }
        _ => unreachable!("not an attention"),
    }
}

fn backward(
    launcher: &mut Launcher,
    sizes: Sizes,
    kind: AttentionKind,
    dropout: Option<&Dropout>,
    softmax: Option<(TensorId, TensorId)>,
    [qkv, dout, dqkv]: [TensorId; 3],
) -> Result<(), CudaError> {
    let tiling = Tiling::of(sizes.d, launcher.prepared.layout.element(qkv));
    let (variant, out_scale) = variant(tiling.file, sizes, kind, dropout.is_some());
    let [rng, site, threshold, keep] = launcher.dropout(dropout);
    let [qkv, dout, dqkv] = [qkv, dout, dqkv].map(|id| launcher.pointer(id));
    let (rows, t, heads) = (sizes.batch * sizes.t, int(sizes.t), int(sizes.heads));
    let (mut lse, mut delta) = (NULL, NULL);
    if let Some((out, of_rows)) = softmax {
        (lse, delta) = (launcher.pointer(of_rows), launcher.scratch(0));
        let grid = Grid::of((rows * sizes.heads).div_ceil(8));
        let arguments = [delta, launcher.pointer(out), dout, int(rows), t, heads, int(sizes.d)];
        launcher.kernel(File::Elementwise, "attention_delta", grid, &arguments)?;
    }
    let scale = sizes.scale();
    let arguments = [dqkv, qkv, dout, lse, delta, t, heads, scale, out_scale, rng, site, threshold, keep];
    for (name, bytes) in [
        ("attention_backward_kv", tiling.backward_kv_bytes),
        ("attention_backward_q", tiling.backward_q_bytes),
    ] {
        launcher.kernel(variant, name, tiling.grid(sizes, bytes), &arguments)?;
    }
    Ok(())
}

fn cached(
    launcher: &mut Launcher,
    sizes: Sizes,
    kind: AttentionKind,
    (places, lengths): (Places, Option<TensorId>),
    [qkv, k_cache, v_cache, out]: [TensorId; 4],
) -> Result<(), CudaError> {
    let Sizes { batch, t, heads, d } = sizes;
    let (rows, c, s) = (batch * t, heads * d, launcher.tensor(k_cache).shape[1]);
    let [x, s_positions] = [launcher.tensor(k_cache).shape[0], s].map(int);
    let [texts, positions] = [places.texts, places.positions].map(|id| launcher.pointer(id));
    let [qkv, k_cache, v_cache, out] = [qkv, k_cache, v_cache, out].map(|id| launcher.pointer(id));
    let (variant, out_scale) = variant(File::Decode, sizes, kind, false);
    let grid = Grid { blocks: [Grid::over(c).blocks[0], rows, 1], ..Grid::over(c) };
    let arguments = [k_cache, v_cache, qkv, texts, positions, x, s_positions, int(c)];
    launcher.kernel(variant, "write_cache", grid, &arguments)?;
    let grid = Grid { blocks: [rows, heads, 1], threads: BLOCK, shared_bytes: (s + 8 * d) * 4 };
    let (scale, lengths) = (sizes.scale(), launcher.optional(lengths));
    let caches = [out, qkv, k_cache, v_cache, texts, positions];
    let arguments = [&caches[..], &[x, s_positions, int(heads), scale, out_scale, lengths]].concat();
    launcher.kernel(variant, "cached_attention", grid, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Precision};

    /// Shared memory of a block on an RTX 4090, an A100 and an H100, in bytes.
    const ADA: usize = 99 << 10;
    const AMPERE: usize = 163 << 10;
    const HOPPER: usize = 227 << 10;

    /// What is said of every operator of a plan, in a precision, on a GPU of so much shared memory.
    fn said(b: Builder, precision: Precision, shared_bytes: usize) -> Option<String> {
        let plan = b.finish().with_precision(precision);
        let (name, capability) = ("GPU".to_owned(), (8, 9));
        let gpu = GpuInfo { index: 0, name, capability, multiprocessors: 1, memory_bytes: 0, shared_bytes };
        let layout = Layout::of(&plan);
        let mut ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
        ops.find_map(|op| check(&plan, &layout, op, &gpu).err()).map(|error| error.to_string())
    }

    fn training(d: usize, precision: Precision, shared_bytes: usize) -> Option<String> {
        let mut b = Builder::new();
        b.begin("train");
        let (x, w) = (b.input("x", &[1, 4, 8]), b.parameter("w", &[8, 3 * d]));
        let qkv = b.linear(x, crate::LinearWeights { w, bias: None });
        let out = b.attention(qkv, 1, AttentionKind::Softmax, None);
        let target = b.input("target", &[1, 4, d]);
        let losses = b.squared_error(out, target);
        b.backward(&[(losses, 1.0)]);
        said(b, precision, shared_bytes)
    }

    fn decoding(d: usize, positions: usize, shared_bytes: usize) -> Option<String> {
        let mut b = Builder::new();
        b.begin("decode");
        let qkv = b.input("qkv", &[1, 1, 3 * d]);
        let caches = (b.cache("k", &[1, positions, d]), b.cache("v", &[1, positions, d]));
        let places =
            Places { texts: b.input_u32("texts", &[1, 1], 2), positions: b.input_u32("at", &[1, 1], 1) };
        b.cached_attention(qkv, caches, (places, None), 1, AttentionKind::Softmax);
        said(b, Precision::Float32, shared_bytes)
    }

    #[test]
    fn heads_that_no_block_has_room_for_are_refused_with_the_widest_that_fits() {
        let refused = |d, most| {
            Some(format!(
                "attention heads of width {d} are too wide for the GPU kernels, which end at {most} on GPU"
            ))
        };
        for (shared_bytes, widest) in [(ADA, 181), (AMPERE, 256), (HOPPER, 256)] {
            for precision in [Precision::Float32, Precision::Bfloat16] {
                assert_eq!(training(widest, precision, shared_bytes), None);
                assert_eq!(training(widest + 1, precision, shared_bytes), refused(widest + 1, widest));
            }
        }
        assert_eq!(training(128, Precision::Bfloat16, ADA), None);
    }

    #[test]
    fn contexts_that_no_block_has_room_for_are_refused_with_the_longest_that_fits() {
        for (shared_bytes, most) in [(ADA, 24_824), (HOPPER, 57_592)] {
            assert_eq!(decoding(64, most, shared_bytes), None);
            let message = format!(
                "a context of {} tokens is too long to decode on GPU: its kernel ends at {most}, with heads of width 64",
                most + 1
            );
            assert_eq!(decoding(64, most + 1, shared_bytes), Some(message));
        }
    }
}
