//! The CPU backend: float32 and bfloat16, all cores, one arena.
//!
//! Each operator is a function over tensors in a file of its kind, called from `execution.rs`. Here are threads, memory, and
//! what goes up and down. Legend: B batch, T positions, C width, D width of a head.

mod attention;
mod attention_backward;
mod attention_row;
mod attention_weights;
mod attention_words;
mod bf16;
mod block;
mod cached_attention;
mod classifier;
mod elementwise;
mod embed;
mod execution;
mod few_rows;
mod gemm;
mod linear;
mod memory;
mod norm;
mod optimizer;
mod options;
mod pool;
mod products;
mod simd;
mod stored;
mod stored_kernels;

pub use bf16::has_bfloat16;
pub use options::{CpuOptions, threads};

use std::borrow::Cow;
use std::sync::Arc;

use bf16::Element;
use execution::Execution;
use memory::{Arena, Reals};
use optimizer::Chunk;
use pool::Pool;
use stored::Stored;

use crate::{Backend, Data, DataMut, Error, Op, Plan, TensorId};

/// The CPU backend.
pub struct Cpu {
    pool: Pool,
    arena: Option<Arena>,
    scratch: Scratch,
}

/// Memory of the backend's own, sized once for all operators of a plan.
#[derive(Default)]
struct Scratch {
    /// Strips of attention scores, one part a thread.
    attention: Vec<f32>,
    /// Partial sums of columns, and of products over few rows.
    partials: Vec<f32>,
    /// Blocks of operands of products in bfloat16, one part a thread.
    packed: Vec<u32>,
    /// Activations that are multiplied by stored matrices.
    tiles: Vec<u32>,
    /// Chunks of all parameters, in the order of the optimiser.
    chunks: Vec<Chunk>,
    /// One sum of squares a chunk.
    squares: Vec<f64>,
}

impl Cpu {
    /// A backend with its threads started and no plan yet.
    pub fn new(options: CpuOptions) -> Result<Cpu, Error> {
        let pool = Pool::new(options.threads, options.pin)
            .map_err(|source| Error::Threads { threads: options.threads, source })?;
        Ok(Cpu { pool, arena: None, scratch: Scratch::default() })
    }
}

impl Scratch {
    fn for_plan(plan: &Plan, threads: usize) -> Scratch {
        let mut scratch = Scratch::default();
        let (mut attention_len, mut partials_len) = (0, 0);
        for op in plan.phases().flat_map(|(_, phase)| &phase.ops) {
            match op {
                Op::Attention { qkv, n_head, .. } | Op::AttentionBackward { qkv, n_head, .. } => {
                    let qkv = plan.tensor(*qkv);
                    let len = attention::scratch_len(qkv.shape[1], qkv.width() / 3 / n_head);
                    attention_len = attention_len.max(len);
                }
                Op::CachedAttention { k_cache, n_head, .. } => {
                    let cache = plan.tensor(*k_cache);
                    let len = attention::scratch_len(cache.shape[1], cache.width() / n_head);
                    attention_len = attention_len.max(len);
                }
                Op::LayerNormBackward { dout, .. }
                | Op::LinearBackwardWeight { dout, dbias: Some(_), .. } => {
                    partials_len = partials_len.max(norm::partials_len(plan.tensor(*dout).width()));
                }
                Op::Linear { out, .. } if plan.tensor(*out).rows() <= few_rows::MAX_ROWS => {
                    partials_len = partials_len.max(few_rows::scratch_len(plan.tensor(*out).width()));
                }
                Op::GradNorm { gradients, .. } => {
                    scratch.chunks = optimizer::chunks(gradients.iter().map(|&g| plan.tensor(g).len()));
                }
                Op::AdamW { slots, .. } => {
                    scratch.chunks = optimizer::chunks(slots.iter().map(|s| plan.tensor(s.gradient).len()));
                }
                _ => {}
            }
        }
        scratch.packed = vec![0; products::scratch_len(plan, threads)];
        scratch.attention = vec![0.0; attention_len * threads];
        scratch.partials = vec![0.0; partials_len];
        scratch.tiles = vec![0; stored::scratch_len(plan)];
        scratch.squares = vec![0.0; scratch.chunks.len()];
        scratch
    }

    fn bytes(&self) -> usize {
        4 * (self.attention.len() + self.partials.len() + self.packed.len() + self.tiles.len())
            + 8 * self.squares.len()
            + size_of_val(&self.chunks[..])
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn prepare(&mut self, plan: Arc<Plan>) -> Result<(), Error> {
        self.scratch = Scratch::for_plan(&plan, self.pool.threads());
        self.arena = Some(Arena::new(plan)?);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, Arena::bytes) + self.scratch.bytes()
    }

    fn upload(&mut self, tensor: TensorId, data: Data) -> Result<(), Error> {
        let arena = self.arena.as_mut().expect("a session prepares its backend first");
        if let Data::U32(values) = data {
            arena.integers_mut(tensor).copy_from_slice(values);
            return Ok(());
        }
        if let Some(stored) = stored_matrix(arena, tensor) {
            let elements: Cow<[f32]> = match data {
                Data::F32(values) => values.into(),
                Data::F64(values) => values.iter().map(|&x| x as f32).collect(),
                Data::U32(_) => unreachable!("handled above"),
            };
            // SAFETY: `self` is exclusive, so nothing runs.
            unsafe { stored.write(&mut self.pool, &elements) };
            return Ok(());
        }
        // SAFETY: `self` is exclusive, so nothing runs.
        unsafe {
            match arena.reals(tensor) {
                Reals::F32(target) => fill(target.write(0..target.len()), data),
                Reals::Bf16(target) => fill(target.write(0..target.len()), data),
            }
        }
        Ok(())
    }

    fn download(&self, tensor: TensorId, mut data: DataMut) -> Result<(), Error> {
        let arena = self.arena.as_ref().expect("a session prepares its backend first");
        if let Some(stored) = stored_matrix(arena, tensor) {
            let mut row = vec![0.0; stored.n_in];
            for index in 0..stored.n_out {
                let part = index * stored.n_in..(index + 1) * stored.n_in;
                // SAFETY: operators run only while the backend is borrowed exclusively.
                unsafe { stored.read_row(index, &mut row) };
                match &mut data {
                    DataMut::F32(values) => values[part].copy_from_slice(&row),
                    DataMut::F64(values) => {
                        values[part].iter_mut().zip(&row).for_each(|(v, &s)| *v = f64::from(s));
                    }
                }
            }
            return Ok(());
        }
        // SAFETY: operators run only while the backend is borrowed exclusively.
        unsafe {
            match arena.reals(tensor) {
                Reals::F32(source) => copy(source.all(), data),
                Reals::Bf16(source) => copy(source.all(), data),
            }
        }
        Ok(())
    }

    fn execute(&mut self, op: &Op) {
        let Cpu { pool, arena, scratch } = self;
        let arena = arena.as_ref().expect("a session prepares its backend first");
        Execution { pool, arena, scratch }.execute(op);
    }
}

fn fill<T: Element>(target: &mut [T], data: Data) {
    match data {
        Data::F32(values) => target.iter_mut().zip(values).for_each(|(t, &v)| *t = T::new(v)),
        Data::F64(values) => target.iter_mut().zip(values).for_each(|(t, &v)| *t = T::new(v as f32)),
        Data::U32(_) => unreachable!("a session checks types"),
    }
}

fn copy<T: Element>(source: &[T], data: DataMut) {
    match data {
        DataMut::F32(values) => values.iter_mut().zip(source).for_each(|(v, s)| *v = s.get()),
        DataMut::F64(values) => values.iter_mut().zip(source).for_each(|(v, s)| *v = f64::from(s.get())),
    }
}

/// A stored matrix, if the tensor is one.
fn stored_matrix(arena: &Arena, id: TensorId) -> Option<Stored<'_>> {
    let tensor = arena.plan().tensor(id);
    tensor.storage().map(|storage| Stored::new(storage, [tensor.rows(), tensor.width()], arena.stored(id)))
}
