// Linear layers over a few rows, as in decoding: what counts is that every weight is read once, by all of the chip.
//
// few_rows_in_out  grid ceil(o / 32), block 256
//   (act* out, act* before, const act* x, const wgt* w, const float* bias, int rows, int c, int o, int gelu)
//   out [rows, o] = gelu(x [rows, c] W [c, o] + bias); rows <= 8. bias may be null. gelu: 0 none, 1 tanh,
//   2 erf; `before` (null, or [rows, o]) gets what the GELU was applied to.
//   Bytes: c * o * wgt.
// few_rows_out_in  grid ceil(o / 8), block 256
//   The same for W [o, c], and with one argument more, const float* scales: null, or [o], what a step of each row of W is
//   worth. Only integers have them, and they lie this way alone.

#define MAX_ROWS 8

/// An activation as it is multiplied: rounded beside weights in bfloat16.
__device__ __forceinline__ float operand(float x) { return WGT == 1 ? to_f32(round_bf16(x)) : x; }

/// Bias and GELU on one output.
__device__ __forceinline__ void finish(act* out, act* before, const float* bias, float sum, int row, int column, int o,
                                       int gelu) {
    const size_t at = (size_t)row * o + column;
    float y = sum + (bias ? bias[column] : 0.0f);
    if (before) {
        y = as_act(y);
        put(before + at, y);
    }
    put(out + at, gelu_of(y, gelu));
}

// A block has 32 columns of W: four lanes side by side read 64 bytes of a row of it (in bfloat16), and 64 such rows
// are on their way at once. Narrow blocks, because GPT-2's narrowest layer should still give 24 of them to the chip.
extern "C" __global__ void __launch_bounds__(256)
few_rows_in_out(act* out, act* before, const act* x, const wgt* w, const float* bias, int rows, int c, int o,
                int gelu) {
    __shared__ float sums[8][MAX_ROWS][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int columns = lane % 4 * UNIT, first = blockIdx.x * WARP + columns;
    float sum[MAX_ROWS][UNIT] = {};
    if (first < o) {
        for (int i = threadIdx.x / 4; i < c; i += 64) {
            float w_o[UNIT];
            load8(w_o, w + (size_t)i * o + first, o - first);
#pragma unroll
            for (int r = 0; r < MAX_ROWS; r++) {
                const float factor = r < rows ? operand(to_f32(x[(size_t)r * c + i])) : 0.0f;
#pragma unroll
                for (int k = 0; k < UNIT; k++) sum[r][k] += factor * w_o[k];
            }
        }
    }
    // Lanes of the same columns first, then warps.
#pragma unroll
    for (int r = 0; r < MAX_ROWS; r++) {
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
#pragma unroll
            for (int offset = 4; offset < WARP; offset *= 2) {
                sum[r][k] += __shfl_xor_sync(ALL_LANES, sum[r][k], offset);
            }
            if (lane < 4) sums[warp][r][columns + k] = sum[r][k];
        }
    }
    __syncthreads();
    const int row = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    if (row >= rows || column >= o) return;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) total += sums[i][row][lane];
    finish(out, before, bias, total, row, column, o, gelu);
}

// A warp for each output, along its row of W.
extern "C" __global__ void __launch_bounds__(256)
few_rows_out_in(act* out, act* before, const act* x, const wgt* w, const float* bias, int rows, int c, int o,
                int gelu, const float* scales) {
    const int lane = threadIdx.x % WARP, column = blockIdx.x * 8 + threadIdx.x / WARP;
    if (column >= o) return;
    const float scale = scales ? scales[column] : 1.0f;
    float sum[MAX_ROWS] = {};
    for (int i = lane * UNIT; i < c; i += WARP * UNIT) {
        float w_c[UNIT];
        load8(w_c, w + (size_t)column * c + i, c - i);
#pragma unroll
        for (int r = 0; r < MAX_ROWS; r++) {
            if (r >= rows) break;
            float x_c[UNIT];
            load8(x_c, x + (size_t)r * c + i, c - i);
#pragma unroll
            for (int k = 0; k < UNIT; k++) sum[r] += operand(x_c[k]) * w_c[k];
        }
    }
#pragma unroll
    for (int r = 0; r < MAX_ROWS; r++) {
        if (r >= rows) break;
        const float total = scale * warp_sum(sum[r]);
        if (lane == 0) finish(out, before, bias, total, r, column, o, gelu);
    }
}
