// Layer norm with the residual addition before it, its adjoint, and the column sums that gradients of biases are.
//
// layer_norm       grid ceil(rows / W), block 32 * W, shared 4 * W * (c rounded up to 8), with W = clamp(8192 / c, 1, 8)
//   (act* out, float* mean, float* rstd, const act* x, const act* delta, act* sum,
//    const float* weight, const float* bias, int rows, int c)
//   With delta: sum = x + delta, and sum is what is normalised. Else delta and sum are null. bias may be null.
//   Bytes: rows * c * act * 2 (4 with delta).
//
// layer_norm_backward   grid P = min(ceil(rows / 8), 512), block 256, shared 8 * (c rounded up to 8)
//   (act* dx, float* partials, const act* dout, const act* addend, const act* x,
//    const float* weight, const float* mean, const float* rstd, int rows, int c)
//   dx = addend + adjoint; addend may be null. partials [P, 2, c]: sums of
//   dout * xhat, then of dout, over a block's rows; reduce_parts finishes both.
//   Bytes: rows * c * act * 3 (4 with addend) + P * c * 8.
//
// column_sums      grid (ceil(c / 256), P), block 256, with P = min(ceil(rows / 64), 128)
//   (float* partials, const act* x, int rows, int c)
//   partials [P, c]: sums of x over a block's rows; reduce_parts finishes them.
//   Bytes: rows * c * act + P * c * 4.
//
// reduce_parts     grid ceil(c / 32), block 256
//   (float* out, const float* partials, int parts, int stride, int c, int accumulate)
//   out[i] (+)= sum over p of partials[p * stride + i]. For layer_norm_backward: stride 2c, partials for the
//   weight, partials + c for the bias. For column_sums: stride c.
//   Bytes: parts * c * 4.

#define EPSILON 1e-5f

// A warp a row. The row stays in shared memory as float, so that the variance can be what it is by definition, a mean
// of squared deviations (a difference of large numbers would lose it), while device memory is read once.
extern "C" __global__ void __launch_bounds__(256)
layer_norm(act* out, float* mean, float* rstd, const act* x, const act* delta, act* sum, const float* weight,
           const float* bias, int rows, int c) {
    DYNAMIC_SHARED(float, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= rows) return;
    const size_t start = (size_t)row * c;
    float* row_c = shared + warp * ((c + UNIT - 1) / UNIT * UNIT);
    float total = 0.0f;
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float v[UNIT];
        load8(v, x + start + i, c - i);
        if (delta) {
            float d[UNIT];
            load8(d, delta + start + i, c - i);
            // What is normalised is the sum as it is kept, because that is what the adjoint will see.
#pragma unroll
            for (int k = 0; k < UNIT; k++) v[k] = as_act(v[k] + d[k]);
            store8(sum + start + i, v, c - i);
        }
        store_piece(row_c + i, v);
#pragma unroll
        for (int k = 0; k < UNIT; k++) total += v[k];
    }
    const float row_mean = warp_sum(total) / c;
    float squares = 0.0f;
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float v[UNIT];
        load_piece(v, row_c + i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) squares += i + k < c ? (v[k] - row_mean) * (v[k] - row_mean) : 0.0f;
    }
    const float row_rstd = 1.0f / sqrtf(warp_sum(squares) / c + EPSILON);
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float v[UNIT], w[UNIT], b[UNIT] = {};
        load_piece(v, row_c + i);
        load8(w, weight + i, c - i);
        if (bias) load8(b, bias + i, c - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) v[k] = (v[k] - row_mean) * row_rstd * w[k] + b[k];
        store8(out + start + i, v, c - i);
    }
    if (lane == 0) {
        mean[row] = row_mean;
        rstd[row] = row_rstd;
    }
}

// ---- the adjoint ----
//
// With xhat = (x - mean) rstd and g = dout * weight: dx = rstd (g - mean(g) - xhat mean(g xhat)).
//
// A block takes eight rows at a time. First a warp goes along each row, for dx; then the threads turn and go down the
// columns, adding the eight rows to the block's sums for dweight and dbias. The second look at dout and x finds them
// in the cache: eight rows of GPT-2's 768 columns are 24 KiB. Nobody waits in between, because a thread's columns
// are its own and need nothing of dx.

/// One warp along one row.
__device__ __forceinline__ void input_gradient(act* dx_c, const act* dout_c, const act* addend_c, const act* x_c,
                                               const float* weight, float mean, float rstd, int c) {
    const int lane = threadIdx.x % WARP;
    float g_sum = 0.0f, g_xhat_sum = 0.0f;
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float dout[UNIT], x[UNIT], w[UNIT];
        load8(dout, dout_c + i, c - i);
        load8(x, x_c + i, c - i);
        load8(w, weight + i, c - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
            g_sum += dout[k] * w[k];
            g_xhat_sum += dout[k] * w[k] * ((x[k] - mean) * rstd);
        }
    }
    const float g_mean = warp_sum(g_sum) / c, g_xhat_mean = warp_sum(g_xhat_sum) / c;
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float dout[UNIT], x[UNIT], w[UNIT], dx[UNIT] = {};
        load8(dout, dout_c + i, c - i);
        load8(x, x_c + i, c - i);
        load8(w, weight + i, c - i);
        if (addend_c) load8(dx, addend_c + i, c - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
            dx[k] += rstd * (dout[k] * w[k] - g_mean - (x[k] - mean) * rstd * g_xhat_mean);
        }
        store8(dx_c + i, dx, c - i);
    }
}

/// A whole block down the columns of a few rows: adds to sums [2, padded].
__device__ __forceinline__ void weight_gradients(float* sums, const act* dout, const act* x, const float* mean,
                                                 const float* rstd, int first, int end, int c, int padded) {
    for (int i = threadIdx.x * UNIT; i < c; i += 256 * UNIT) {
        float dweight[UNIT], dbias[UNIT];
        load_piece(dweight, sums + i);
        load_piece(dbias, sums + padded + i);
#pragma unroll 2
        for (int row = first; row < end; row++) {
            float g[UNIT], v[UNIT];
            load8(g, dout + (size_t)row * c + i, c - i);
            load8(v, x + (size_t)row * c + i, c - i);
#pragma unroll
            for (int k = 0; k < UNIT; k++) {
                dweight[k] += g[k] * ((v[k] - mean[row]) * rstd[row]);
                dbias[k] += g[k];
            }
        }
        store_piece(sums + i, dweight);
        store_piece(sums + padded + i, dbias);
    }
}

extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward(act* dx, float* partials, const act* dout, const act* addend, const act* x, const float* weight,
                    const float* mean, const float* rstd, int rows, int c) {
    DYNAMIC_SHARED(float, sums);
    const int padded = (c + UNIT - 1) / UNIT * UNIT;
    const float zeros[UNIT] = {};
    // Here and below a thread keeps to its own units of columns, so that it needs no barrier.
    for (int i = threadIdx.x * UNIT; i < c; i += 256 * UNIT) {
        store_piece(sums + i, zeros);
        store_piece(sums + padded + i, zeros);
    }
    for (int first = blockIdx.x * 8; first < rows; first += gridDim.x * 8) {
        const int row = first + threadIdx.x / WARP;
        if (row < rows) {
            const size_t at = (size_t)row * c;
            const act* addend_c = addend ? addend + at : addend;
            input_gradient(dx + at, dout + at, addend_c, x + at, weight, mean[row], rstd[row], c);
        }
        weight_gradients(sums, dout, x, mean, rstd, first, min(first + 8, rows), c, padded);
    }
    float* parts_c = partials + (size_t)blockIdx.x * 2 * c;
    for (int i = threadIdx.x * UNIT; i < c; i += 256 * UNIT) {
        float v[UNIT];
        load_piece(v, sums + i);
        store8(parts_c + i, v, c - i);
        load_piece(v, sums + padded + i);
        store8(parts_c + c + i, v, c - i);
    }
}

// ---- sums of columns, in two steps ----

// A block has 256 columns, a lane eight of them; its eight warps take rows in turn, and meet in shared memory.
extern "C" __global__ void __launch_bounds__(256) column_sums(float* partials, const act* x, int rows, int c) {
    __shared__ float sums[8][256];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int column = blockIdx.x * 256 + lane * UNIT;
    float sum[UNIT] = {};
    if (column < c) {
#pragma unroll 4
        for (int row = blockIdx.y * 8 + warp; row < rows; row += gridDim.y * 8) {
            float v[UNIT];
            load8(v, x + (size_t)row * c + column, c - column);
#pragma unroll
            for (int k = 0; k < UNIT; k++) sum[k] += v[k];
        }
    }
#pragma unroll
    for (int k = 0; k < UNIT; k++) sums[warp][lane * UNIT + k] = sum[k];
    __syncthreads();
    const int own = blockIdx.x * 256 + threadIdx.x;
    if (own >= c) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < 8; w++) total += sums[w][threadIdx.x];
    partials[(size_t)blockIdx.y * c + own] = total;
}

// A lane a column; the eight warps take parts in turn, and meet in shared memory.
extern "C" __global__ void __launch_bounds__(256)
reduce_parts(float* out, const float* partials, int parts, int stride, int c, int accumulate) {
    __shared__ float sums[8][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < c) {
#pragma unroll 8
        for (int part = warp; part < parts; part += 8) sum += partials[(size_t)part * stride + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= c) return;
    float total = accumulate ? out[column] : 0.0f;
#pragma unroll
    for (int w = 0; w < 8; w++) total += sums[w][lane];
    out[column] = total;
}
