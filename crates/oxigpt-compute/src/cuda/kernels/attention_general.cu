// Causal attention without tensor cores: for float activations, and for heads wider than 128.
//
// The same kernels, arguments and results as attention.cu, for either type of activations and any D up to 256,
// with other blocks: let R = 32 rows a block.
//
// attention               grid (ceil(T / 32), H, B), block 256, shared (32 * D + 64 * (D + 1) + 8 * 4 * 32) * 4
// attention_backward_kv   grid (ceil(T / 32), H, B), block 256, shared (64 * D + 64 * (D + 1) + 8 * 8 * 32) * 4
// attention_backward_q    grid (ceil(T / 32), H, B), block 256, shared (64 * D + 64 * (D + 1) + 8 * 4 * 32) * 4

// A warp has four of the block's rows, and goes along tiles of 32 rows of the other side. It does with its lanes what
// attention.cu does with the tensor core: first a lane is a row of the tile, and computes its products with the four
// rows (every number of the tile it reads serves four of them); then a lane is a column of the sums, and adds up the
// rows of the tile by their weights, which the warp has left in shared memory. Rows of tiles are HEAD + 1 apart there,
// so that 32 lanes read one column of 32 rows from 32 banks.

#define BLOCK_ROWS 32
#define THREADS 256
#define WARP_ROWS 4

enum : int {
    STRIDE = HEAD + 1,
    /// Columns of a lane.
    COLUMNS = (HEAD + WARP - 1) / WARP,
};

/// Weights of a warp's rows, one a lane.
typedef float Weights[WARP_ROWS][WARP];

/// Rows first .. first + 32 of a head to shared memory; rows from `t` on are 0.
__device__ __forceinline__ void fetch(float* tile, int stride, const act* source, int row_stride, int first, int t) {
    for (int i = threadIdx.x; i < 32 * HEAD; i += THREADS) {
        const int row = i / HEAD, column = i % HEAD;
        const bool there = first + row < t;
        tile[row * stride + column] = there ? to_f32(source[(size_t)(first + row) * row_stride + column]) : 0.0f;
    }
}

/// The products of the warp's rows with this lane's row of a tile; and that row's square.
__device__ __forceinline__ float products(float (&s)[WARP_ROWS], const float* rows, const float* tile) {
    const float* own = tile + threadIdx.x % WARP * STRIDE;
    float square = 0.0f;
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) s[r] = 0.0f;
#pragma unroll 4
    for (int i = 0; i < HEAD; i++) {
        const float x = own[i];
        square += x * x;
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) s[r] += rows[r * HEAD + i] * x;
    }
    return square;
}

/// acc += weights times the rows of a tile.
__device__ __forceinline__ void add_weighted(float (&acc)[WARP_ROWS][COLUMNS], const Weights& weights,
                                             const float* tile) {
    const int lane = threadIdx.x % WARP;
#pragma unroll 4
    for (int j = 0; j < WARP; j++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const float x = c * WARP + lane < HEAD ? tile[j * STRIDE + c * WARP + lane] : 0.0f;
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) acc[r][c] += weights[r][j] * x;
        }
    }
}

/// acc = scale (acc - sum x) for rows x: see subtract_own in attention.cu.
__device__ __forceinline__ void subtract_own(float (&acc)[WARP_ROWS][COLUMNS], const float (&sums)[WARP_ROWS],
                                             const float* rows, float scale) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        const float sum = DISTANCE ? warp_sum(sums[r]) : 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = c * WARP + lane;
            const float own = DISTANCE && column < HEAD ? rows[r * HEAD + column] : 0.0f;
            acc[r][c] = scale * (acc[r][c] - sum * own);
        }
    }
}

__device__ __forceinline__ void squares_of_rows(float (&squares)[WARP_ROWS], const float* rows) {
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        float sum = 0.0f;
        for (int i = threadIdx.x % WARP; i < HEAD; i += WARP) sum += rows[r * HEAD + i] * rows[r * HEAD + i];
        squares[r] = warp_sum(sum);
    }
}

__device__ __forceinline__ void write_rows(act* target, int row_stride, int first, int t,
                                           const float (&acc)[WARP_ROWS][COLUMNS]) {
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int column = c * WARP + threadIdx.x % WARP;
            if (first + r < t && column < HEAD) put(target + (size_t)(first + r) * row_stride + column, acc[r][c]);
        }
    }
}

// ---- forward ----

/// The weights of one tile, in place of the products; for softmax as in weights_of_tile of attention.cu.
__device__ __forceinline__ void weights_of_tile(float (&s)[WARP_ROWS], float (&acc)[WARP_ROWS][COLUMNS],
                                                float (&largest)[WARP_ROWS], float (&sum)[WARP_ROWS], Range (&ranges)[WARP_ROWS],
                                                const float (&q_squared)[WARP_ROWS], float k_squared, int first,
                                                float scale) {
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        const bool seen = (int)threadIdx.x % WARP <= first + r;
        const float z = score(s[r], q_squared[r], k_squared, scale);
#if KIND == SOFTMAX
        const float z_seen = seen ? z : -INFINITE;
        const float tile_max = fmaxf(largest[r], warp_max(z_seen));
        const float shrink = expf(largest[r] - tile_max);
        largest[r] = tile_max;
        s[r] = expf(z_seen - tile_max);
        sum[r] = sum[r] * shrink + s[r];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) acc[r][c] *= shrink;
#else
        if (KIND == GAUSSIAN_POLY && seen) ranges[r].see(z);
        float slope;
        s[r] = seen ? weight_with_slope(z, slope) : 0.0f;
#endif
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention(act* out, float* stats, const act* qkv, int t, int heads, float scale, float out_scale, const u32* rng,
          u32 site, u32 threshold, float keep_scale) {
    DYNAMIC_SHARED(float, q_rows);
    float* const k_tile = q_rows + BLOCK_ROWS * HEAD;
    float* const v_tile = k_tile + 32 * STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Weights& weights = reinterpret_cast<Weights*>(v_tile + 32 * STRIDE)[warp];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    const int first = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS, own = first + warp * WARP_ROWS;
    const float* own_rows = q_rows + warp * WARP_ROWS * HEAD;
    fetch(q_rows, HEAD, place.in_qkv(qkv, 0), row_stride, first, t);
    float acc[WARP_ROWS][COLUMNS] = {}, largest[WARP_ROWS], sum[WARP_ROWS] = {}, q_squared[WARP_ROWS] = {};
    Range ranges[WARP_ROWS];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        largest[r] = -INFINITE;
        ranges[r] = Range{0.0f, INFINITE};
    }
    for (int tile = 0; tile < min(first + BLOCK_ROWS, t); tile += 32) {
        __syncthreads();
        fetch(k_tile, STRIDE, place.in_qkv(qkv, 1), row_stride, tile, t);
        fetch(v_tile, STRIDE, place.in_qkv(qkv, 2), row_stride, tile, t);
        __syncthreads();
        if (DISTANCE && tile == 0) squares_of_rows(q_squared, own_rows);
        float s[WARP_ROWS];
        const float k_squared = products(s, own_rows, k_tile);
        weights_of_tile(s, acc, largest, sum, ranges, q_squared, k_squared, own - tile, scale);
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            float factor = 1.0f;
            if (DROPOUT) {
                const Mask mask = mask_of(rng, site, threshold, keep_scale);
                factor = mask_factor(mask, mask_row(rng, place.batch, heads, place.head, t, own + r), tile + lane);
            }
            weights[r][lane] = factor * s[r];
        }
        __syncwarp();
        add_weighted(acc, weights, v_tile);
    }
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        const float total = warp_sum(sum[r]);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            acc[r][c] *= KIND == SOFTMAX ? 1.0f / total : weight_scale(out_scale, own + r);
        }
        const float below = warp_sum(ranges[r].below), lowest = -warp_max(-ranges[r].lowest);
        if (lane != 0 || own + r >= t) continue;
        write_stats(stats, place, own + r, largest[r] + logf(total), Range{below, lowest});
    }
    write_rows(place.in_out(out), place.width(), own, t, acc);
}

// ---- adjoint ----

__device__ __forceinline__ float softmax_weight(float dot, float scale, float lse) {
    return KIND == SOFTMAX ? expf(scale * dot - lse) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t,
                     int heads, float scale, float out_scale, const u32* rng, u32 site, u32 threshold,
                     float keep_scale) {
    DYNAMIC_SHARED(float, q_rows);
    float* const dout_rows = q_rows + BLOCK_ROWS * HEAD;
    float* const k_tile = dout_rows + BLOCK_ROWS * HEAD;
    float* const v_tile = k_tile + 32 * STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Weights& gradients = reinterpret_cast<Weights*>(v_tile + 32 * STRIDE)[warp];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    const int first = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS, own = first + warp * WARP_ROWS;
    const float* own_rows = q_rows + warp * WARP_ROWS * HEAD;
    fetch(q_rows, HEAD, place.in_qkv(qkv, 0), row_stride, first, t);
    fetch(dout_rows, HEAD, place.in_out(dout), place.width(), first, t);
    float dq[WARP_ROWS][COLUMNS] = {}, sums[WARP_ROWS] = {}, q_squared[WARP_ROWS] = {};
    for (int tile = 0; tile < min(first + BLOCK_ROWS, t); tile += 32) {
        __syncthreads();
        fetch(k_tile, STRIDE, place.in_qkv(qkv, 1), row_stride, tile, t);
        fetch(v_tile, STRIDE, place.in_qkv(qkv, 2), row_stride, tile, t);
        __syncthreads();
        if (DISTANCE && tile == 0) squares_of_rows(q_squared, own_rows);
        float s[WARP_ROWS], ds[WARP_ROWS];
        const float k_squared = products(s, own_rows, k_tile);
        products(ds, dout_rows + warp * WARP_ROWS * HEAD, v_tile);
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            const int query = own + r, key = tile + lane;
            const bool of_softmax = KIND == SOFTMAX && query < t;
            float factor = 1.0f;
            if (DROPOUT) {
                const Mask mask = mask_of(rng, site, threshold, keep_scale);
                factor = mask_factor(mask, mask_row(rng, place.batch, heads, place.head, t, query), key);
            }
            const Pair pair = {key <= query,
                               of_softmax ? place.in_stats(lse)[query] : 0.0f,
                               of_softmax ? place.in_stats(delta)[query] : 0.0f,
                               q_squared[r],
                               k_squared,
                               weight_scale(out_scale, query),
                               factor};
            weight_and_gradient(s[r], ds[r], scale, pair, softmax_weight(s[r], scale, pair.lse));
            gradients[r][lane] = ds[r];
            sums[r] += ds[r];
        }
        __syncwarp();
        add_weighted(dq, gradients, k_tile);
    }
    subtract_own(dq, sums, own_rows, scale);
    write_rows(place.in_qkv(dqkv, 0), row_stride, own, t, dq);
}

// The same with the sides exchanged: rows are keys, lanes queries.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t,
                      int heads, float scale, float out_scale, const u32* rng, u32 site, u32 threshold,
                      float keep_scale) {
    DYNAMIC_SHARED(float, k_rows);
    float* const v_rows = k_rows + BLOCK_ROWS * HEAD;
    float* const q_tile = v_rows + BLOCK_ROWS * HEAD;
    float* const dout_tile = q_tile + 32 * STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Weights* const scratch = reinterpret_cast<Weights*>(dout_tile + 32 * STRIDE);
    Weights &weights = scratch[warp], &gradients = scratch[THREADS / WARP + warp];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    const int first = blockIdx.x * BLOCK_ROWS, own = first + warp * WARP_ROWS;
    const float* own_rows = k_rows + warp * WARP_ROWS * HEAD;
    fetch(k_rows, HEAD, place.in_qkv(qkv, 1), row_stride, first, t);
    fetch(v_rows, HEAD, place.in_qkv(qkv, 2), row_stride, first, t);
    float dk[WARP_ROWS][COLUMNS] = {}, dv[WARP_ROWS][COLUMNS] = {}, sums[WARP_ROWS] = {}, k_squared[WARP_ROWS] = {};
    for (int tile = first; tile < t; tile += 32) {
        __syncthreads();
        fetch(q_tile, STRIDE, place.in_qkv(qkv, 0), row_stride, tile, t);
        fetch(dout_tile, STRIDE, place.in_out(dout), place.width(), tile, t);
        __syncthreads();
        if (DISTANCE && tile == first) squares_of_rows(k_squared, own_rows);
        float s[WARP_ROWS], ds[WARP_ROWS];
        const float q_squared = products(s, own_rows, q_tile);
        products(ds, v_rows + warp * WARP_ROWS * HEAD, dout_tile);
        const int query = tile + lane;
        const bool of_softmax = KIND == SOFTMAX && query < t;
        const float query_lse = of_softmax ? place.in_stats(lse)[query] : 0.0f;
        const float query_delta = of_softmax ? place.in_stats(delta)[query] : 0.0f;
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            const int key = own + r;
            float factor = 1.0f;
            if (DROPOUT) {
                const Mask mask = mask_of(rng, site, threshold, keep_scale);
                factor = mask_factor(mask, mask_row(rng, place.batch, heads, place.head, t, query), key);
            }
            const Pair pair = {key <= query && query < t, query_lse, query_delta, q_squared, k_squared[r],
                               weight_scale(out_scale, query), factor};
            weight_and_gradient(s[r], ds[r], scale, pair, softmax_weight(s[r], scale, pair.lse));
            weights[r][lane] = s[r];
            gradients[r][lane] = ds[r];
            sums[r] += ds[r];
        }
        __syncwarp();
        add_weighted(dv, weights, dout_tile);
        add_weighted(dk, gradients, q_tile);
    }
    subtract_own(dk, sums, own_rows, scale);
    write_rows(place.in_qkv(dqkv, 1), row_stride, own, t, dk);
    write_rows(place.in_qkv(dqkv, 2), row_stride, own, t, dv);
}
