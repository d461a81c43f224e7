// What goes once over its tensors: addition, bias, GELU, dropout, a row, conversions. All limited by bytes.
//
// Where a grid says ceil(n / 2048), a block of 256 threads takes 2048 elements, 8 a thread.
// `gelu`: 0 none, 1 tanh, 2 erf.
//
// add              grid ceil(n / 2048), block 256   (act* out, const act* a, const act* b, long long n)
//   out = a + b; out may be a or b.
// gelu             grid ceil(n / 2048), block 256   (act* out, const act* x, long long n, int gelu)
// gelu_backward    grid ceil(n / 2048), block 256   (act* dx, const act* x, const act* dout, long long n, int gelu)
//   dx = gelu'(x) dout; dx may be dout.
// bias_gelu        grid ceil(n / 2048), block 256
//   (act* out, act* y, const float* bias, long long n, int c, int gelu)
//   y += bias, in place; then out = gelu(y), unless gelu is 0 (out null). For products whose epilogue could not.
// dropout          grid ceil(rows * ceil(c / 8) / 256), block 256
//   (act* out, const act* x, const unsigned* rng, long long rows, int t, int c,
//    unsigned site, unsigned threshold, float scale)
//   rows = B*T; threshold = (u32)(p * 2^32), scale = 1 / (1 - p); out may be x.
// select_row       grid (ceil(c / 2048), batch), block 256
//   (act* out, const act* x, const unsigned* row, int t, int c)
// attention_delta  grid ceil(rows * heads / 8), block 256
//   (float* delta, const act* out, const act* dout, int rows, int t, int heads, int d)
//   delta [B, H, T] = sum over each head of out * dout; rows = B*T. What softmax's adjoint subtracts.
// scale            grid ceil(n / 2048), block 256   (act* out, const act* x, long long n, float factor)
// squared_error    grid ceil(rows / 8), block 256
//   (act* dx, float* losses, const act* x, const act* target, int rows, int c, float factor)
//   losses[n] = mean over c of (x - target)^2; dx = factor * (x - target), unless it is null.
// to_bf16          grid ceil(n / 2048), block 256   (bf16* out, const float* x, long long n)
// to_float         grid ceil(n / 2048), block 256   (float* out, const bf16* x, long long n)
// widen            grid ceil(n / 2048), block 256
//   (act* out, const signed char* x, const float* scales, long long n, int c)
//   out = scales[row] * x, rows of c.

/// The first of a thread's eight elements.
__device__ __forceinline__ long long own_unit() { return ((long long)blockIdx.x * 256 + threadIdx.x) * UNIT; }

extern "C" __global__ void __launch_bounds__(256) add(act* out, const act* a, const act* b, long long n) {
    const long long i = own_unit();
    if (i >= n) return;
    float x[UNIT], y[UNIT];
    load8(x, a + i, n - i);
    load8(y, b + i, n - i);
#pragma unroll
    for (int k = 0; k < UNIT; k++) x[k] += y[k];
    store8(out + i, x, n - i);
}

extern "C" __global__ void __launch_bounds__(256) scale(act* out, const act* x, long long n, float factor) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, x + i, n - i);
#pragma unroll
    for (int k = 0; k < UNIT; k++) v[k] *= factor;
    store8(out + i, v, n - i);
}

// A warp a row.
extern "C" __global__ void __launch_bounds__(256)
squared_error(act* dx, float* losses, const act* x, const act* target, int rows, int c, float factor) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t start = (size_t)row * c;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32 * UNIT; i < c; i += 32 * UNIT) {
        float v[UNIT], w[UNIT];
        load8(v, x + start + i, c - i);
        load8(w, target + start + i, c - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) {
            const float difference = i + k < c ? v[k] - w[k] : 0.0f;
            sum += difference * difference;
            v[k] = factor * difference;
        }
        if (dx) store8(dx + start + i, v, c - i);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) losses[row] = sum / c;
}

extern "C" __global__ void __launch_bounds__(256) gelu(act* out, const act* x, long long n, int gelu) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, x + i, n - i);
#pragma unroll
    for (int k = 0; k < UNIT; k++) v[k] = gelu_of(v[k], gelu);
    store8(out + i, v, n - i);
}

extern "C" __global__ void __launch_bounds__(256)
gelu_backward(act* dx, const act* x, const act* dout, long long n, int gelu) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT], g[UNIT];
    load8(v, x + i, n - i);
    load8(g, dout + i, n - i);
#pragma unroll
    for (int k = 0; k < UNIT; k++) {
        float derivative;
        gelu_with_derivative(v[k], gelu, derivative);
        g[k] *= derivative;
    }
    store8(dx + i, g, n - i);
}

extern "C" __global__ void __launch_bounds__(256)
bias_gelu(act* out, act* y, const float* bias, long long n, int c, int gelu) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, y + i, n - i);
    int column = (int)(i % c);
#pragma unroll
    for (int k = 0; k < UNIT; k++) {
        v[k] += bias[column];
        column = column + 1 == c ? 0 : column + 1;
    }
    store8(y + i, v, n - i);
    if (gelu == GELU_NONE) return;
    // Of the sum as it is kept, because its adjoint will see that one.
#pragma unroll
    for (int k = 0; k < UNIT; k++) v[k] = gelu_of(as_act(v[k]), gelu);
    store8(out + i, v, n - i);
}

// Four elements of a row share a draw, so a unit never goes across the end of a row.
extern "C" __global__ void __launch_bounds__(256)
dropout(act* out, const act* x, const u32* rng, long long rows, int t, int c, u32 site, u32 threshold, float scale) {
    const int units = (c + UNIT - 1) / UNIT;
    const long long unit = (long long)blockIdx.x * 256 + threadIdx.x;
    const long long row = unit / units;
    if (row >= rows) return;
    const int column = (int)(unit % units) * UNIT;
    const Mask mask = mask_of(rng, site, threshold, scale);
    const u32 mask_row = rng[3] * (u32)t + (u32)row;
    float v[UNIT], low[4], high[4];
    load8(v, x + row * c + column, c - column);
    mask_factors(low, mask, mask_row, column / 4);
    mask_factors(high, mask, mask_row, column / 4 + 1);
#pragma unroll
    for (int k = 0; k < UNIT; k++) {
        const float factor = k < 4 ? low[k % 4] : high[k % 4];
        // A dropped element is 0 whatever it was.
        v[k] = factor == 0.0f ? 0.0f : v[k] * factor;
    }
    store8(out + row * c + column, v, c - column);
}

extern "C" __global__ void __launch_bounds__(256) select_row(act* out, const act* x, const u32* row, int t, int c) {
    const int i = blockIdx.x * 2048 + threadIdx.x * UNIT;
    if (i >= c) return;
    float v[UNIT];
    load8(v, x + ((size_t)blockIdx.y * t + *row) * c + i, c - i);
    store8(out + (size_t)blockIdx.y * c + i, v, c - i);
}

// A warp for each head of each row.
extern "C" __global__ void __launch_bounds__(256)
attention_delta(float* delta, const act* out, const act* dout, int rows, int t, int heads, int d) {
    const int item = blockIdx.x * 8 + threadIdx.x / WARP;
    if (item >= rows * heads) return;
    const int row = item / heads, head = item % heads;
    const size_t start = (size_t)item * d;
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP * UNIT; i < d; i += WARP * UNIT) {
        float a[UNIT], b[UNIT];
        load8(a, out + start + i, d - i);
        load8(b, dout + start + i, d - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) sum += a[k] * b[k];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) delta[((size_t)(row / t) * heads + head) * t + row % t] = sum;
}

extern "C" __global__ void __launch_bounds__(256) to_bf16(bf16* out, const float* x, long long n) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, x + i, n - i);
    store8(out + i, v, n - i);
}

extern "C" __global__ void __launch_bounds__(256) to_float(float* out, const bf16* x, long long n) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, x + i, n - i);
    store8(out + i, v, n - i);
}

extern "C" __global__ void __launch_bounds__(256)
widen(act* out, const signed char* x, const float* scales, long long n, int c) {
    const long long i = own_unit();
    if (i >= n) return;
    float v[UNIT];
    load8(v, x + i, n - i);
    long long row = i / c;
    int column = (int)(i - row * c);
#pragma unroll
    for (int k = 0; k < UNIT; k++) {
        if (i + k < n) v[k] *= scales[row];
        if (++column == c) column = 0, row++;
    }
    store8(out + i, v, n - i);
}
