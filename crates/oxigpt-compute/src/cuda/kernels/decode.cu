// Attention of new rows over a cache of keys and values.
//
// Legend: as in attention.cu; X texts that the cache has, of S positions each; N rows. `texts` says which a row belongs
// to, X being all of them alike, `positions` where.
//
// write_cache      grid (ceil(c / 2048), N), block 256
//   (act* k_cache, act* v_cache, const act* qkv, const unsigned* texts, const unsigned* positions, int x, int s, int c)
//   The rows' places in both caches [X, S, C] from qkv [N, 3C].
//   Bytes: N * c * act * 4, of a row of all texts X times the half.
//
// cached_attention grid (N, H), block 256, shared (s + 8 * D) * 4 (compiled like attention, -DDROPOUT=0)
//   (act* out, const act* qkv, const act* k_cache, const act* v_cache, const unsigned* texts, const unsigned* positions,
//    int x, int s, int heads, float scale, float out_scale, const unsigned* lengths)
//   out [N, C]: a row attends to its text, up to its own position. After write_cache. Any D up to 1024.
//   lengths [X]: pointwise kinds that divide by the length of the whole text; null for others.
//   Bytes: 2 * D * (position + 1) * act for each block.

extern "C" __global__ void __launch_bounds__(256)
write_cache(act* k_cache, act* v_cache, const act* qkv, const u32* texts, const u32* positions, int x, int s, int c) {
    const int i = blockIdx.x * 2048 + threadIdx.x * UNIT;
    if (i >= c) return;
    const act* row = qkv + (size_t)blockIdx.y * 3 * c;
    const int own = (int)texts[blockIdx.y], first = own == x ? 0 : own, end = own == x ? x : own + 1;
    float k[UNIT], v[UNIT];
    load8(k, row + c + i, c - i);
    load8(v, row + 2 * c + i, c - i);
    for (int text = first; text < end; text++) {
        const size_t to = ((size_t)text * s + positions[blockIdx.y]) * c + i;
        store8(k_cache + to, k, c - i);
        store8(v_cache + to, v, c - i);
    }
}

// A block for each query and head: scores of all keys to shared memory, softmax over them there, then the sum of the
// values. Its eight warps take keys in turn, and several lanes share a key, so that its row is read in one piece. One
// multiprocessor reads 1,024 keys and values of GPT-2 (256 KiB) in some 3 us, so more blocks for a query, and a second
// launch to join them, would gain nothing there.
enum : int {
    WARPS = 8,
    /// Lanes that share a key: as many as a head has units, rounded up to a power of two.
    SHARE = HEAD <= 8 ? 1 : HEAD <= 16 ? 2 : HEAD <= 32 ? 4 : HEAD <= 64 ? 8 : HEAD <= 128 ? 16 : 32,
    /// Units of a lane.
    UNITS = (HEAD + SHARE * UNIT - 1) / (SHARE * UNIT),
    /// Keys that a block works on at a time.
    KEYS = WARPS * WARP / SHARE,
};

/// Column of the lane's u-th unit.
__device__ __forceinline__ int own_column(int u) { return (u * SHARE + threadIdx.x % SHARE) * UNIT; }

/// The lane's units of a row of a head, 0 if there is no such row.
__device__ __forceinline__ void load_units(float (&v)[UNITS][UNIT], const act* row, bool there) {
#pragma unroll
    for (int u = 0; u < UNITS; u++) load8(v[u], row + own_column(u), there ? HEAD - own_column(u) : 0);
}

extern "C" __global__ void __launch_bounds__(256)
cached_attention(act* out, const act* qkv, const act* k_cache, const act* v_cache, const u32* texts,
                 const u32* positions, int x, int s, int heads, float scale, float out_scale, const u32* lengths) {
    DYNAMIC_SHARED(float, weights);
    float* const sums = weights + s;
    __shared__ float scratch[WARPS];
    const int head = blockIdx.y, c = heads * HEAD, keys = (int)positions[blockIdx.x] + 1;
    const int text = (int)texts[blockIdx.x] == x ? 0 : (int)texts[blockIdx.x];
    const size_t row = blockIdx.x, cached = (size_t)text * s * c + head * HEAD;
    float q[UNITS][UNIT];
    load_units(q, qkv + row * 3 * c + head * HEAD, true);

    float largest = -INFINITE;
#pragma unroll 2
    for (int first = 0; first < keys; first += KEYS) {
        const int key = first + threadIdx.x / SHARE;
        float k[UNITS][UNIT], dot = 0.0f, q_squared = 0.0f, k_squared = 0.0f;
        load_units(k, k_cache + cached + (size_t)min(key, keys - 1) * c, key < keys);
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
#pragma unroll
            for (int j = 0; j < UNIT; j++) {
                dot += q[u][j] * k[u][j];
                q_squared += q[u][j] * q[u][j];
                k_squared += k[u][j] * k[u][j];
            }
        }
#pragma unroll
        for (int offset = SHARE / 2; offset > 0; offset /= 2) {
            dot += __shfl_xor_sync(ALL_LANES, dot, offset);
            if (DISTANCE) q_squared += __shfl_xor_sync(ALL_LANES, q_squared, offset);
            if (DISTANCE) k_squared += __shfl_xor_sync(ALL_LANES, k_squared, offset);
        }
        float slope, z = score(dot, q_squared, k_squared, scale);
        if (KIND != SOFTMAX) z = weight_with_slope(z, slope);
        if (key < keys) {
            largest = fmaxf(largest, z);
            if (threadIdx.x % SHARE == 0) weights[key] = z;
        }
    }
    __syncthreads();

    float factor = lengths ? 1.0f / (float)lengths[text] : weight_scale(out_scale, keys - 1);
    if (KIND == SOFTMAX) {
        largest = block_max(largest, scratch);
        float sum = 0.0f;
        for (int key = threadIdx.x; key < keys; key += 256) {
            weights[key] = expf(weights[key] - largest);
            sum += weights[key];
        }
        // Its barriers also let everyone see the weights.
        factor = 1.0f / block_sum(sum, scratch);
    }

    float acc[UNITS][UNIT] = {};
#pragma unroll 2
    for (int first = 0; first < keys; first += KEYS) {
        const int key = first + threadIdx.x / SHARE;
        if (key >= keys) break;
        float v[UNITS][UNIT];
        load_units(v, v_cache + cached + (size_t)key * c, true);
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
#pragma unroll
            for (int j = 0; j < UNIT; j++) acc[u][j] += weights[key] * v[u][j];
        }
    }
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
#pragma unroll
        for (int j = 0; j < UNIT; j++) {
#pragma unroll
            for (int offset = SHARE; offset < WARP; offset *= 2) {
                acc[u][j] += __shfl_xor_sync(ALL_LANES, acc[u][j], offset);
            }
            if (lane < SHARE && own_column(u) + j < HEAD) sums[warp * HEAD + own_column(u) + j] = acc[u][j];
        }
    }
    __syncthreads();
    for (int column = threadIdx.x; column < HEAD; column += 256) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += sums[w * HEAD + column];
        put(out + row * c + head * HEAD + column, factor * sum);
    }
}
