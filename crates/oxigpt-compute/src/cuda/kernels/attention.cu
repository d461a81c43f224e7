// Causal attention on tensor cores (act = bfloat16 only, D <= 128), tiled: no T x T matrix is ever in memory.
//
// Legend: B batch, T positions, H heads, D width of a head; i query, j key; C = H*D.
// Let Dp = D rounded up to a multiple of 16, R = 2 * (Dp + 8) bytes, N = 64 where Dp <= 64, else 32 (with dropout half
// as many do, but more does no harm).
// Beside the shared memory given here, a kernel has up to 1.75 KiB of its own.
//
// attention        grid (ceil(T / 64), H, B), block 128, shared (64 + 4 * N) * R
//   (act* out, float* stats, const act* qkv, int t, int heads, float scale, float out_scale,
//    const unsigned* rng, unsigned site, unsigned threshold, float keep_scale)
//   qkv [B, T, 3C], out [B, T, C]. scale = 1 / sqrt D. stats: for softmax the logarithm of each row's sum of
//   exponentials, [B, H, T]; for gaussian-poly-N how many scores of each row are below -2^N and the lowest,
//   [B, H, T, 2], or null; null for other kinds.
//   out_scale: what weights are multiplied by: 1, or 1 / divisor for pointwise kinds (-DBY_POSITION=1 ignores it).
//   rng, site, threshold, keep_scale: dropout, as in `dropout` of elementwise.cu; null and 0 if -DDROPOUT=0.
//   Products: 4 * D flops for each of B * H * T^2 / 2 pairs.
//
// attention_backward_kv   grid (ceil(T / 64), H, B), block 128, shared (128 + 4 * N) * R
// attention_backward_q    grid (ceil(T / 64), H, B), block 128, shared (128 + 4 * N) * R
//   (act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t, int heads,
//    float scale, float out_scale, const unsigned* rng, unsigned site, unsigned threshold, float keep_scale)
//   delta [B, H, T]: from attention_delta of elementwise.cu, for softmax; lse and delta are null for other kinds.
//   The first writes the k and v of dqkv [B, T, 3C], the second its q; in any order.
//   Products: 8 * D and 6 * D flops a pair. One kernel could do with 10 in all, but then blocks would have to
//   add to the same dq, which takes atomics (another order each time) or a chain of waiting blocks.

// How a tile is worked on. A block owns 64 rows (queries forward and for dq; keys for dk and dv), each of its four
// warps 16 of them, and goes along tiles of N rows of the other side. Per tile a warp
//   1. multiplies its 16 rows by the tile's N rows (both Dp long, so K-major as the tensor core wants them): scores;
//   2. turns scores into weights where they are, in registers;
//   3. multiplies those 16 x N weights by the same tile (or its companion), summing 16 x Dp in registers.
// Weights never leave registers, because an accumulator of step 1 lies as an operand of step 3 does. The tile's rows
// come by asynchronous copies, two tiles in turn, so that step 1 to 3 hide the way from memory. What limits: with 16
// rows a warp, every 8 columns of a tile are read from shared memory once for each warp (256 bytes in two clocks) for
// a product that takes the tensor core two clocks: both are busy all the time.

#define BLOCK_ROWS 64
#define THREADS 128

enum : int {
    /// Head width in the tiles; columns from HEAD on are 0.
    DP = (HEAD + 15) / 16 * 16,
    /// Elements from row to row of a tile: an odd multiple of 16 bytes, so that eight neighbouring rows lie in
    /// different sixteenths of the 128 bytes that shared memory gives at a time.
    STRIDE = DP + 8,
    /// Rows of a tile of the other side, fewer where sums of wide heads, or the draws of dropout, fill the registers.
    N = (DP <= 64 ? 64 : 32) / (DROPOUT ? 2 : 1),
};

/// Begins to copy rows first .. first + `rows` of a head to a tile; rows from `t` on are 0.
template <int rows>
__device__ __forceinline__ void fetch_tile(bf16* tile, const bf16* source, int row_stride, int first, int t) {
    for (int unit = threadIdx.x; unit < rows * (DP / UNIT); unit += THREADS) {
        const int row = unit / (DP / UNIT), column = unit % (DP / UNIT) * UNIT;
        const bool there = first + row < t && column < HEAD;
        const bf16* from = source + (there ? (size_t)(first + row) * row_stride + column : 0);
        bf16* to = tile + row * STRIDE + column;
#if HEAD % UNIT == 0
        copy_async(to, from, there);
#else
        // Heads that do not begin at multiples of 16 bytes.
        float v[UNIT];
        load8(v, from, there ? HEAD - column : 0);
        store_piece(to, v);
#endif
    }
}

/// The operand A that 16 rows of a tile are: 16 columns at a time.
__device__ __forceinline__ void load_rows(u32 (&a)[4], const bf16* tile, int column) {
    const int lane = threadIdx.x % WARP;
    load_tiles(a, tile + (lane % 16) * STRIDE + column + lane / 16 * 8);
}

/// acc [16, N] += A B^T over Dp columns, A being 16 rows and B the N rows of a tile.
__device__ __forceinline__ void multiply_rows(float (&acc)[N / 8][4], const u32 (&a)[4], const bf16* tile, int column) {
    const int lane = threadIdx.x % WARP;
    const bf16* row = tile + (lane % 8 + lane / 16 * 8) * STRIDE + column + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        u32 b[4];
        load_tiles(b, row + n * 16 * STRIDE);
        mma_16x8x16(acc[2 * n], a, b[0], b[1]);
        mma_16x8x16(acc[2 * n + 1], a, b[2], b[3]);
    }
}

/// acc [16, N] = A B^T, A being 16 rows of one tile and B the N rows of another.
__device__ __forceinline__ void product_of_rows(float (&acc)[N / 8][4], const bf16* a_rows, const bf16* tile) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
#pragma unroll
    for (int column = 0; column < DP; column += 16) {
        u32 a[4];
        load_rows(a, a_rows, column);
        multiply_rows(acc, a, tile, column);
    }
}

/// acc [16, Dp] += A B, A [16, N] in float, rounded here, and B the N rows of a tile.
__device__ __forceinline__ void add_product(float (&acc)[DP / 8][4], const float (&a)[N / 8][4], const bf16* tile) {
    const int lane = threadIdx.x % WARP;
    const bf16* row = tile + lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        const float(&left)[4] = a[2 * k], (&right)[4] = a[2 * k + 1];
        const u32 operand[4] = {round_bf16x2(left[0], left[1]), round_bf16x2(left[2], left[3]),
                                round_bf16x2(right[0], right[1]), round_bf16x2(right[2], right[3])};
#pragma unroll
        for (int n = 0; n < DP / 16; n++) {
            u32 b[4];
            load_tiles_transposed(b, row + k * 16 * STRIDE + n * 16);
            mma_16x8x16(acc[2 * n], operand, b[0], b[1]);
            mma_16x8x16(acc[2 * n + 1], operand, b[2], b[3]);
        }
    }
}

/// Adds x over the four lanes that hold one row of an accumulator.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

/// Writes a warp's 16 x Dp sums, rows `first`.. of a head, by way of its 16 rows of a tile, so that rows go out in
/// units of 16 bytes.
__device__ __forceinline__ void write_rows(bf16* target, int row_stride, int first, int t, bf16* tile,
                                           const float (&acc)[DP / 8][4]) {
    const int lane = threadIdx.x % WARP;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < DP / 8; n++) {
        u32* pair = reinterpret_cast<u32*>(tile + lane / 4 * STRIDE + n * 8 + lane % 4 * 2);
        pair[0] = round_bf16x2(acc[n][0], acc[n][1]);
        pair[8 * STRIDE / 2] = round_bf16x2(acc[n][2], acc[n][3]);
    }
    __syncwarp();
    for (int unit = lane; unit < 16 * (DP / UNIT); unit += WARP) {
        const int row = unit / (DP / UNIT), column = unit % (DP / UNIT) * UNIT;
        if (first + row >= t || column >= HEAD) continue;
        float v[UNIT];
        load_piece(v, tile + row * STRIDE + column);
        store8(target + (size_t)(first + row) * row_stride + column, v, HEAD - column);
    }
}

/// Squared norms of the rows of a tile.
template <int rows> __device__ __forceinline__ void squared_norms(float* norms, const bf16* tile) {
    for (int row = threadIdx.x; row < rows; row += THREADS) {
        float sum = 0.0f;
        for (int column = 0; column < DP; column += UNIT) {
            float v[UNIT];
            load_piece(v, tile + row * STRIDE + column);
#pragma unroll
            for (int k = 0; k < UNIT; k++) sum += v[k] * v[k];
        }
        norms[row] = sum;
    }
}

/// Which pair of query and key element (n, k) of an accumulator is, less the tile's first: of column n * 8 + q + k % 2
/// and row g + 8 * (k / 2).
__device__ __forceinline__ int own_row(int k) { return threadIdx.x % WARP / 4 + k / 2 * 8; }

__device__ __forceinline__ int own_column(int n, int k) { return n * 8 + threadIdx.x % 4 * 2 + k % 2; }

/// Sums along rows of an accumulator as a product will see it.
__device__ __forceinline__ void add_rounded(float (&sums)[2], const float (&acc)[N / 8][4]) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) sums[k / 2] += to_f32(round_bf16(acc[n][k]));
    }
}

/// acc = scale (acc - sum x): what is left of the sum over pairs of ds (y - x), acc holding that of ds y.
__device__ __forceinline__ void subtract_own(float (&acc)[DP / 8][4], const float (&sums)[2], const bf16* own_rows,
                                             float scale) {
    const float of_row[2] = {row_sum(sums[0]), row_sum(sums[1])};
#pragma unroll
    for (int n = 0; n < DP / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float own = DISTANCE ? to_f32(own_rows[own_row(k) * STRIDE + own_column(n, k)]) : 0.0f;
            acc[n][k] = scale * (acc[n][k] - (DISTANCE ? of_row[k / 2] * own : 0.0f));
        }
    }
}

// ---- forward ----

/// The weights of one tile, in place of the dot products: unnormalised for softmax, whose running maximum and sum are
/// carried on, and whose sum of values so far is scaled down when the maximum grows (Milakov and Gimelshein 2018;
/// Dao et al. 2022, algorithm 1). `first`: the warp's first query less the tile's first key.
__device__ __forceinline__ void weights_of_tile(float (&s)[N / 8][4], float (&acc)[DP / 8][4], float (&largest)[2],
                                                float (&sum)[2], Range (&ranges)[2], const float* q_norms,
                                                const float* k_norms, int first, float scale) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const bool seen = own_column(n, k) <= first + own_row(k);
#if KIND == SOFTMAX
            s[n][k] = seen ? s[n][k] * (scale * LOG2_E) : -INFINITE;
#else
            const float q_squared = DISTANCE ? q_norms[own_row(k)] : 0.0f;
            const float k_squared = DISTANCE ? k_norms[own_column(n, k)] : 0.0f;
            const float z = score(s[n][k], q_squared, k_squared, scale);
            if (KIND == GAUSSIAN_POLY && seen) ranges[k / 2].see(z);
            float slope;
            s[n][k] = seen ? weight_with_slope(z, slope) : 0.0f;
#endif
        }
    }
#if KIND == SOFTMAX
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float tile_max = largest[r];
#pragma unroll
        for (int n = 0; n < N / 8; n++) tile_max = fmaxf(tile_max, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        tile_max = row_max(tile_max);
        const float shrink = exp2_approx(largest[r] - tile_max);
        largest[r] = tile_max;
        sum[r] *= shrink;
#pragma unroll
        for (int n = 0; n < DP / 8; n++) {
            acc[n][2 * r] *= shrink;
            acc[n][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int k = 2 * r; k < 2 * r + 2; k++) {
                s[n][k] = exp2_approx(s[n][k] - tile_max);
                sum[r] += s[n][k];
            }
        }
    }
#endif
}

/// Multiplies weights by their mask's factors. Rows are queries; two neighbouring columns share a draw.
__device__ __forceinline__ void drop_weights(float (&s)[N / 8][4], const Mask& mask, u32 first_row, int first_key) {
#if DROPOUT
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int key = first_key + own_column(n, 0);
            float factors[4];
            mask_factors(factors, mask, first_row + own_row(2 * r), key / 4);
            s[n][2 * r] *= key % 4 == 0 ? factors[0] : factors[2];
            s[n][2 * r + 1] *= key % 4 == 0 ? factors[1] : factors[3];
        }
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention(act* out, float* stats, const act* qkv, int t, int heads, float scale, float out_scale, const u32* rng,
          u32 site, u32 threshold, float keep_scale) {
    DYNAMIC_SHARED(bf16, q_tile);
    bf16* const kv_tiles = q_tile + BLOCK_ROWS * STRIDE;
    __shared__ float q_norms[BLOCK_ROWS], k_norms[N];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    // The longest rows first, so that the short ones fill up the end.
    const int first = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS, own = threadIdx.x / WARP * 16;
    bf16* const own_tile = q_tile + own * STRIDE;
    fetch_tile<BLOCK_ROWS>(q_tile, place.in_qkv(qkv, 0), row_stride, first, t);
    const auto fetch = [&](int tile) {
        bf16* const pair = kv_tiles + tile % 2 * 2 * N * STRIDE;
        fetch_tile<N>(pair, place.in_qkv(qkv, 1), row_stride, tile * N, t);
        fetch_tile<N>(pair + N * STRIDE, place.in_qkv(qkv, 2), row_stride, tile * N, t);
    };
    fetch(0);
    copy_group();
    const int tiles = (min(first + BLOCK_ROWS, t) + N - 1) / N;
    float acc[DP / 8][4] = {}, largest[2] = {-INFINITE, -INFINITE}, sum[2] = {};
    Range ranges[2] = {{0.0f, INFINITE}, {0.0f, INFINITE}};
    u32 q[DP / 16][4];
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        copy_group();
        copy_wait<1>();
        __syncthreads();
        const bf16* k_tile = kv_tiles + tile % 2 * 2 * N * STRIDE;
        if (tile == 0) {
#pragma unroll
            for (int i = 0; i < DP / 16; i++) load_rows(q[i], own_tile, i * 16);
        }
        if (DISTANCE) {
            if (tile == 0) squared_norms<BLOCK_ROWS>(q_norms, q_tile);
            squared_norms<N>(k_norms, k_tile);
            __syncthreads();
        }
        float s[N / 8][4] = {};
#pragma unroll
        for (int i = 0; i < DP / 16; i++) multiply_rows(s, q[i], k_tile, i * 16);
        weights_of_tile(s, acc, largest, sum, ranges, q_norms + own, k_norms, first + own - tile * N, scale);
        if (DROPOUT) {
            const Mask mask = mask_of(rng, site, threshold, keep_scale);
            drop_weights(s, mask, mask_row(rng, place.batch, heads, place.head, t, first + own), tile * N);
        }
        add_product(acc, s, k_tile + N * STRIDE);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float total = row_sum(sum[r]);
        const int row = first + own + own_row(2 * r);
        const float factor = KIND == SOFTMAX ? 1.0f / total : weight_scale(out_scale, row);
#pragma unroll
        for (int n = 0; n < DP / 8; n++) {
            acc[n][2 * r] *= factor;
            acc[n][2 * r + 1] *= factor;
        }
        const float below = row_sum(ranges[r].below), lowest = -row_max(-ranges[r].lowest);
        if (threadIdx.x % 4 != 0 || row >= t) continue;
        write_stats(stats, place, row, LN_2 * (largest[r] + log2f(total)), Range{below, lowest});
    }
    write_rows(place.in_out(out), place.width(), first + own, t, own_tile, acc);
}

// ---- adjoint ----

/// `weight_and_gradient` of a tile. `at(n, k)` gives what belongs to a pair; its lse is in base 2 here.
template <class At>
__device__ __forceinline__ void weights_and_gradients(float (&s)[N / 8][4], float (&dp)[N / 8][4], float scale,
                                                      const At& at) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const Pair pair = at(n, k);
            const float softmax = KIND == SOFTMAX ? exp2_approx(scale * LOG2_E * s[n][k] - pair.lse) : 0.0f;
            weight_and_gradient(s[n][k], dp[n][k], scale, pair, softmax);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t,
                     int heads, float scale, float out_scale, const u32* rng, u32 site, u32 threshold,
                     float keep_scale) {
    DYNAMIC_SHARED(bf16, q_tile);
    bf16* const dout_tile = q_tile + BLOCK_ROWS * STRIDE;
    bf16* const kv_tiles = dout_tile + BLOCK_ROWS * STRIDE;
    __shared__ float q_norms[BLOCK_ROWS], k_norms[N];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    const int first = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS, own = threadIdx.x / WARP * 16;
    fetch_tile<BLOCK_ROWS>(q_tile, place.in_qkv(qkv, 0), row_stride, first, t);
    fetch_tile<BLOCK_ROWS>(dout_tile, place.in_out(dout), place.width(), first, t);
    const auto fetch = [&](int tile) {
        bf16* const pair = kv_tiles + tile % 2 * 2 * N * STRIDE;
        fetch_tile<N>(pair, place.in_qkv(qkv, 1), row_stride, tile * N, t);
        fetch_tile<N>(pair + N * STRIDE, place.in_qkv(qkv, 2), row_stride, tile * N, t);
    };
    fetch(0);
    copy_group();
    float row_lse[2] = {}, row_delta[2] = {};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + own + own_row(2 * r);
        if (KIND != SOFTMAX || row >= t) continue;
        row_lse[r] = LOG2_E * place.in_stats(lse)[row];
        row_delta[r] = place.in_stats(delta)[row];
    }
    Mask mask = {};
    if (DROPOUT) mask = mask_of(rng, site, threshold, keep_scale);
    const u32 first_mask_row = DROPOUT ? mask_row(rng, place.batch, heads, place.head, t, first + own) : 0;
    const int tiles = (min(first + BLOCK_ROWS, t) + N - 1) / N;
    float dq[DP / 8][4] = {}, sums[2] = {};
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        copy_group();
        copy_wait<1>();
        __syncthreads();
        const bf16* k_tile = kv_tiles + tile % 2 * 2 * N * STRIDE;
        if (DISTANCE) {
            if (tile == 0) squared_norms<BLOCK_ROWS>(q_norms, q_tile);
            squared_norms<N>(k_norms, k_tile);
            __syncthreads();
        }
        float s[N / 8][4], ds[N / 8][4];
        product_of_rows(s, q_tile + own * STRIDE, k_tile);
        product_of_rows(ds, dout_tile + own * STRIDE, k_tile + N * STRIDE);
        weights_and_gradients(s, ds, scale, [&](int n, int k) {
            const int row = own_row(k), key = tile * N + own_column(n, k);
            return Pair{key <= first + own + row,
                        row_lse[k / 2],
                        row_delta[k / 2],
                        DISTANCE ? q_norms[own + row] : 0.0f,
                        DISTANCE ? k_norms[own_column(n, k)] : 0.0f,
                        weight_scale(out_scale, first + own + row),
                        DROPOUT ? mask_factor(mask, first_mask_row + row, key) : 1.0f};
        });
        add_product(dq, ds, k_tile);
        if (DISTANCE) add_rounded(sums, ds);
        __syncthreads();
    }
    subtract_own(dq, sums, q_tile + own * STRIDE, scale);
    write_rows(place.in_qkv(dqkv, 0), row_stride, first + own, t, q_tile + own * STRIDE, dq);
}

// The same with the sides exchanged: rows are keys, columns queries, from the block's first key on.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t,
                      int heads, float scale, float out_scale, const u32* rng, u32 site, u32 threshold,
                      float keep_scale) {
    DYNAMIC_SHARED(bf16, k_tile);
    bf16* const v_tile = k_tile + BLOCK_ROWS * STRIDE;
    bf16* const q_tiles = v_tile + BLOCK_ROWS * STRIDE;
    __shared__ float k_norms[BLOCK_ROWS], q_norms[N], query_lse[2][N], query_delta[2][N];
    const Place place = place_of(t, heads);
    const int row_stride = 3 * place.width();
    const int first = blockIdx.x * BLOCK_ROWS, own = threadIdx.x / WARP * 16;
    fetch_tile<BLOCK_ROWS>(k_tile, place.in_qkv(qkv, 1), row_stride, first, t);
    fetch_tile<BLOCK_ROWS>(v_tile, place.in_qkv(qkv, 2), row_stride, first, t);
    const auto fetch = [&](int tile) {
        bf16* const pair = q_tiles + tile % 2 * 2 * N * STRIDE;
        fetch_tile<N>(pair, place.in_qkv(qkv, 0), row_stride, tile * N, t);
        fetch_tile<N>(pair + N * STRIDE, place.in_out(dout), place.width(), tile * N, t);
        if (KIND == SOFTMAX && threadIdx.x < N) {
            const int query = tile * N + threadIdx.x;
            query_lse[tile % 2][threadIdx.x] = query < t ? LOG2_E * place.in_stats(lse)[query] : 0.0f;
            query_delta[tile % 2][threadIdx.x] = query < t ? place.in_stats(delta)[query] : 0.0f;
        }
    };
    Mask mask = {};
    if (DROPOUT) mask = mask_of(rng, site, threshold, keep_scale);
    const u32 first_mask_row = DROPOUT ? mask_row(rng, place.batch, heads, place.head, t, 0) : 0;
    const int first_tile = first / N, tiles = (t + N - 1) / N;
    fetch(first_tile);
    copy_group();
    float dk[DP / 8][4] = {}, dv[DP / 8][4] = {}, sums[2] = {};
    for (int tile = first_tile; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        copy_group();
        copy_wait<1>();
        __syncthreads();
        const bf16* q_tile = q_tiles + tile % 2 * 2 * N * STRIDE;
        if (DISTANCE) {
            if (tile == first_tile) squared_norms<BLOCK_ROWS>(k_norms, k_tile);
            squared_norms<N>(q_norms, q_tile);
            __syncthreads();
        }
        float s[N / 8][4], ds[N / 8][4];
        product_of_rows(s, k_tile + own * STRIDE, q_tile);
        product_of_rows(ds, v_tile + own * STRIDE, q_tile + N * STRIDE);
        weights_and_gradients(s, ds, scale, [&](int n, int k) {
            const int key = first + own + own_row(k), column = own_column(n, k), query = tile * N + column;
            return Pair{key <= query && query < t,
                        query_lse[tile % 2][column],
                        query_delta[tile % 2][column],
                        DISTANCE ? q_norms[column] : 0.0f,
                        DISTANCE ? k_norms[own + own_row(k)] : 0.0f,
                        weight_scale(out_scale, query),
                        DROPOUT ? mask_factor(mask, first_mask_row + query, key) : 1.0f};
        });
        add_product(dv, s, q_tile + N * STRIDE);
        add_product(dk, ds, q_tile);
        if (DISTANCE) add_rounded(sums, ds);
        __syncthreads();
    }
    subtract_own(dk, sums, k_tile + own * STRIDE, scale);
    write_rows(place.in_qkv(dqkv, 1), row_stride, first + own, t, k_tile + own * STRIDE, dk);
    write_rows(place.in_qkv(dqkv, 2), row_stride, first + own, t, v_tile + own * STRIDE, dv);
}
