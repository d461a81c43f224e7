//! The global norm of the gradients, and AdamW over all parameters, both in fixed chunks.

use super::memory::Shared;
use super::pool::Pool;
use super::simd::vectorised;
use crate::AdamWConfig;

/// Elements of one task: its four tensors stay in the second-level cache.
const CHUNK: usize = 1 << 14;

/// A part of the `tensor`-th of a list of tensors.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) tensor: usize,
    start: usize,
    end: usize,
}

/// Cuts tensors of these lengths into chunks.
pub(super) fn chunks(lens: impl Iterator<Item = usize>) -> Vec<Chunk> {
    let of_tensor = |(tensor, len): (usize, usize)| {
        (0..len).step_by(CHUNK).map(move |start| Chunk { tensor, start, end: (start + CHUNK).min(len) })
    };
    lens.enumerate().flat_map(of_tensor).collect()
}

vectorised! {
    fn sum_of_squares(values: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (whole, rest) = values.as_chunks::<8>();
        for chunk in whole {
            for lane in 0..8 {
                lanes[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// `norm = sqrt(sum of squares)`; `tensor(i)` is the i-th gradient, `partials` scratch for one sum a chunk.
pub(super) fn grad_norm<'a>(
    pool: &mut Pool,
    chunks: &[Chunk],
    tensor: impl Fn(usize) -> Shared<'a> + Sync,
    partials: &mut [f64],
    norm: Shared,
) {
    let sums = PartialSums(partials.as_mut_ptr());
    let n_sums = partials.len();
    pool.run(chunks.len(), |index, _| {
        let Chunk { tensor: i, start, end } = chunks[index];
        assert!(index < n_sums);
        // SAFETY: nobody writes to gradients now; each task has its own partial sum, in bounds as just checked.
        unsafe { *sums.at(index) = sum_of_squares(tensor(i).read(start..end)) };
    });
    let total: f64 = partials[..chunks.len()].iter().sum();
    // SAFETY: the pool is idle.
    unsafe { norm.write(0..1)[0] = total.sqrt() as f32 };
}

/// Partial sums, written by several threads at once, each its own.
struct PartialSums(*mut f64);

// SAFETY: each task writes one element of its own.
unsafe impl Sync for PartialSums {}

impl PartialSums {
    fn at(&self, index: usize) -> *mut f64 {
        self.0.wrapping_add(index)
    }
}

/// What one chunk of AdamW needs beside its tensors.
#[derive(Clone, Copy)]
pub(super) struct Step {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
    /// Factor on gradients: 1, or what brings their norm down to `grad_clip`.
    clip: f32,
    /// `lr / (1 - beta1^t)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    root: f32,
    /// `1 - lr * weight_decay`.
    keep: f32,
}

impl Step {
    /// `schedule` is learning rate, `1 - beta1^t`, `1 - beta2^t`. The clipping factor is PyTorch's, with its 1e-6.
    pub(super) fn new(config: &AdamWConfig, norm: f32, schedule: &[f32]) -> Step {
        let [lr, correction1, correction2] = [0, 1, 2].map(|i| f64::from(schedule[i]));
        let norm = f64::from(norm);
        let clipped = config.grad_clip > 0.0 && norm > config.grad_clip;
        Step {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            one_minus_beta1: (1.0 - config.beta1) as f32,
            one_minus_beta2: (1.0 - config.beta2) as f32,
            eps: config.eps as f32,
            clip: if clipped { (config.grad_clip / (norm + 1e-6)) as f32 } else { 1.0 },
            rate: (lr / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            keep: (1.0 - lr * config.weight_decay) as f32,
        }
    }
}

vectorised! {
    fn adamw_slice(step: &Step, decay: bool, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let keep = if decay { step.keep } else { 1.0 };
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * step.clip;
            *m = step.beta1.mul_add(*m, step.one_minus_beta1 * g);
            *v = step.beta2.mul_add(*v, step.one_minus_beta2 * g * g);
            *p = p.mul_add(keep, -step.rate * *m / v.sqrt().mul_add(step.root, step.eps));
        }
    }
}

/// The four tensors of one parameter.
pub(super) struct Slot<'a> {
    pub(super) parameter: Shared<'a>,
    pub(super) gradient: Shared<'a>,
    pub(super) m: Shared<'a>,
    pub(super) v: Shared<'a>,
    pub(super) decay: bool,
}

/// Updates every chunk; `slot(i)` gives the tensors of the i-th parameter.
pub(super) fn adamw<'a>(
    pool: &mut Pool,
    chunks: &[Chunk],
    step: &Step,
    slot: impl Fn(usize) -> Slot<'a> + Sync,
) {
    pool.run(chunks.len(), |index, _| {
        let Chunk { tensor, start, end } = chunks[index];
        let Slot { parameter, gradient, m, v, decay } = slot(tensor);
        // SAFETY: the four are distinct tensors, and chunks do not overlap.
        unsafe {
            let (p, g) = (parameter.write(start..end), gradient.read(start..end));
            adamw_slice(step, decay, p, g, m.write(start..end), v.write(start..end));
        }
    });
}
