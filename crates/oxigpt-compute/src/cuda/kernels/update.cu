// The global norm of the gradients, and AdamW over all parameters in one launch.
//
// Both go by two tables that the host writes once: the parameters, and the chunks they are cut into, of at most
// 4096 elements, one block each.
//   struct Slot  { float* parameter; const float* gradient; float* m; float* v; bf16* copy; u64 decay; }   48 bytes
//   struct Chunk { unsigned slot; unsigned len; u64 start; }                                              16 bytes
// copy: the weights in bfloat16, for products; null where there are none. decay: 0 or 1.
// start is a multiple of 4096.
//
// squares          grid number of chunks, block 256   (double* partials, const Slot* slots, const Chunk* chunks)
//   One sum of squares a chunk. Bytes: 4 a parameter.
// grad_norm        grid 1, block 1024                 (float* norm, const double* partials, int parts)
//   The root of their sum.
// adamw            grid number of chunks, block 256
//   (const Slot* slots, const Chunk* chunks, const float* norm, const float* schedule,
//    double beta1, double beta2, double eps, double weight_decay, double grad_clip)
//   schedule: learning rate, 1 - beta1^t, 1 - beta2^t. Bytes: 28 a parameter, 30 with a copy.
// copy_weights     grid number of chunks, block 256   (const Slot* slots, const Chunk* chunks)
//   The bfloat16 copies alone, after weights have come from the host.

struct Slot {
    float* parameter;
    const float* gradient;
    float* m;
    float* v;
    bf16* copy;
    u64 decay;
};

struct Chunk {
    u32 slot;
    u32 len;
    u64 start;
};

#define CHUNK 4096

// Sums of squares go in double: their order is fixed anyhow, and half of an H100's rate is far more than memory gives.
extern "C" __global__ void __launch_bounds__(256) squares(double* partials, const Slot* slots, const Chunk* chunks) {
    __shared__ double scratch[256 / WARP];
    const Chunk chunk = chunks[blockIdx.x];
    const float* gradient = slots[chunk.slot].gradient + chunk.start;
    double sum = 0.0;
#pragma unroll
    for (int i = threadIdx.x * UNIT; i < CHUNK; i += 256 * UNIT) {
        float g[UNIT];
        load8(g, gradient + i, (int)chunk.len - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) sum += (double)g[k] * (double)g[k];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(1024) grad_norm(float* norm, const double* partials, int parts) {
    __shared__ double scratch[1024 / WARP];
    double sum = 0.0;
    for (int i = threadIdx.x; i < parts; i += 1024) sum += partials[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *norm = (float)sqrt(sum);
}

/// The constants of one step, as a block needs them.
struct Step {
    float beta1, beta2, rest1, rest2, eps;
    /// Factor on gradients: 1, or what brings their norm down to the limit (with PyTorch's 1e-6).
    float clip;
    /// lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr * weight_decay.
    float rate, root, keep;
};

extern "C" __global__ void __launch_bounds__(256)
adamw(const Slot* slots, const Chunk* chunks, const float* norm, const float* schedule, double beta1, double beta2,
      double eps, double weight_decay, double grad_clip) {
    __shared__ Step shared;
    if (threadIdx.x == 0) {
        const double lr = schedule[0], total = *norm;
        const double clip = grad_clip > 0.0 && total > grad_clip ? grad_clip / (total + 1e-6) : 1.0;
        shared = Step{(float)beta1, (float)beta2, (float)(1.0 - beta1), (float)(1.0 - beta2), (float)eps, (float)clip,
                      (float)(lr / schedule[1]), (float)(1.0 / sqrt((double)schedule[2])),
                      (float)(1.0 - lr * weight_decay)};
    }
    __syncthreads();
    const Step step = shared;
    const Chunk chunk = chunks[blockIdx.x];
    const Slot slot = slots[chunk.slot];
    const float keep = slot.decay ? step.keep : 1.0f;
    for (int i = threadIdx.x * UNIT; i < (int)chunk.len; i += 256 * UNIT) {
        const size_t at = chunk.start + i;
        const int valid = (int)chunk.len - i;
        float p[UNIT], g[UNIT], m[UNIT], v[UNIT];
        load8(p, slot.parameter + at, valid);
        load8(g, slot.gradient + at, valid);
        load8(m, slot.m + at, valid);
        load8(v, slot.v + at, valid);
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
            const float clipped = g[k] * step.clip;
            m[k] = step.beta1 * m[k] + step.rest1 * clipped;
            v[k] = step.beta2 * v[k] + step.rest2 * clipped * clipped;
            p[k] = p[k] * keep - step.rate * m[k] / (sqrtf(v[k]) * step.root + step.eps);
        }
        store8(slot.parameter + at, p, valid);
        store8(slot.m + at, m, valid);
        store8(slot.v + at, v, valid);
        if (slot.copy) store8(slot.copy + at, p, valid);
    }
}

extern "C" __global__ void __launch_bounds__(256) copy_weights(const Slot* slots, const Chunk* chunks) {
    const Chunk chunk = chunks[blockIdx.x];
    const Slot slot = slots[chunk.slot];
    if (!slot.copy) return;
    for (int i = threadIdx.x * UNIT; i < (int)chunk.len; i += 256 * UNIT) {
        float p[UNIT];
        load8(p, slot.parameter + chunk.start + i, (int)chunk.len - i);
        store8(slot.copy + chunk.start + i, p, (int)chunk.len - i);
    }
}
