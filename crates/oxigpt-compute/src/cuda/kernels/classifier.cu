// Softmax and cross-entropy over the vocabulary, which leaves the gradients where the logits were.
//
// cross_entropy    grid rows of the slice, block ceil(padded / 8) rounded up to a multiple of 32, 512 at most
//   (act* logits, float* losses, const unsigned* targets, int words, int padded, float scale, int grad)
//   logits [rows, padded]. losses[n] = log sum exp(z) - z[target] over the first `words` columns, in nats.
//   With grad: z = scale * (softmax(z) - onehot(target)), and 0 in the padding. losses and targets are the
//   slice's own (the host offsets them).
//   Bytes: rows * padded * act * (1, or 3 with grad; the second reading may come from the cache).

// A block a row. The largest logit and the sum are found in one reading: where a larger logit turns up, the sum so
// far is scaled down to it (Milakov and Gimelshein 2018, algorithm 3). A row of GPT-2 in bfloat16 is 98 KiB, so the
// second reading, which leaves the gradients, finds it in the second-level cache.
extern "C" __global__ void __launch_bounds__(512)
cross_entropy(act* logits, float* losses, const u32* targets, int words, int padded, float scale, int grad) {
    __shared__ float scratch[512 / WARP];
    act* row = logits + (size_t)blockIdx.x * padded;
    const int target = (int)targets[blockIdx.x];
    const float at_target = to_f32(row[target]);
    float largest = -INFINITE, sum = 0.0f;
    for (int i = threadIdx.x * UNIT; i < words; i += blockDim.x * UNIT) {
        float v[UNIT];
        load8(v, row + i, words - i);
        float unit_max = v[0];
#pragma unroll
        for (int k = 1; k < UNIT; k++) unit_max = i + k < words ? fmaxf(unit_max, v[k]) : unit_max;
        if (unit_max > largest) {
            sum *= expf(largest - unit_max);
            largest = unit_max;
        }
#pragma unroll
        for (int k = 0; k < UNIT; k++) sum += i + k < words ? expf(v[k] - largest) : 0.0f;
    }
    const float row_max = block_max(largest, scratch);
    // A thread that had no column has -inf and 0.
    const float total = block_sum(sum == 0.0f ? 0.0f : sum * expf(largest - row_max), scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = row_max - at_target + logf(total);
    if (!grad) return;
    const float factor = scale / total;
    for (int i = threadIdx.x * UNIT; i < padded; i += blockDim.x * UNIT) {
        float v[UNIT];
        load8(v, row + i, words - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
            const float share = i + k < words ? factor * expf(v[k] - row_max) : 0.0f;
            v[k] = share - (i + k == target ? scale : 0.0f);
        }
        store8(row + i, v, padded - i);
    }
}
