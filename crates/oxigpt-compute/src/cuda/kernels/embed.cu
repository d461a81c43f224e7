// Token and position embeddings, and their adjoint.
//
// embed            grid ceil(rows / 8), block 256
//   (act* out, const unsigned* tokens, const unsigned* positions, const wgt* wte, const float* scales, const float* wpe,
//    int rows, int t, int c)
//   out[n] = wte[tokens[n]] + wpe[positions[n]]. `positions` may be null: n % t. rows = B*T. `scales` is null, or what a
//   step of each row of wte is worth.
//   Bytes: rows * c * (wgt + 4 + act); wpe comes from the cache.
//
// embed_order      grid ceil(rows / 256), block 256
//   (unsigned* order, const unsigned* tokens, int rows)
//   The rows sorted by token, those of one token in their own order.
//
// embed_backward_wte   grid rows, block 128
//   (float* dwte, const act* dout, const unsigned* tokens, const unsigned* order, int rows, int c)
//   dwte[w] += sum of dout[n] over the rows n with tokens[n] = w. Always adds: to overwrite, clear dwte before.
//   Bytes: rows * c * act + 8 * c for each word that occurs.
//
// embed_backward_wpe   grid positions (rows of dwpe), block 128
//   (float* dwpe, const act* dout, int batch, int t, int c, int accumulate)
//   dwpe[p] (+)= sum over the batch of dout[b, p]; rows from t on get 0 unless they accumulate.
//   Bytes: batch * t * c * act + positions * c * 4 (8 if it accumulates).

extern "C" __global__ void __launch_bounds__(256)
embed(act* out, const u32* tokens, const u32* positions, const wgt* wte, const float* scales, const float* wpe, int rows,
      int t, int c) {
    // A warp a row: its lanes read consecutive units of the word's row and of the position's.
    const int row = blockIdx.x * (256 / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int place = positions ? (int)positions[row] : row % t;
    const wgt* word_c = wte + (size_t)tokens[row] * c;
    const float scale = scales ? scales[tokens[row]] : 1.0f;
    const float* place_c = wpe + (size_t)place * c;
    act* out_c = out + (size_t)row * c;
    for (int i = threadIdx.x % WARP * UNIT; i < c; i += WARP * UNIT) {
        float a[UNIT], b[UNIT];
        load8(a, word_c + i, c - i);
        load8(b, place_c + i, c - i);
#pragma unroll
        for (int k = 0; k < UNIT; k++) a[k] = scale * a[k] + b[k];
        store8(out_c + i, a, c - i);
    }
}

// To add up the rows of one word in a fixed order, they must be known in order. This sort is the plainest there is:
// a row's place is the number of rows before it in the order (token, row), counted by looking at all of them.
// That is rows^2 comparisons, of numbers that a whole warp reads at once from shared memory: at 65,536 rows some
// 10^10 instructions, a third of a millisecond of an H100, where the rest of that micro-batch takes a hundred.
extern "C" __global__ void __launch_bounds__(256) embed_order(u32* order, const u32* tokens, int rows) {
    __shared__ u32 tile[256];
    const int row = blockIdx.x * 256 + threadIdx.x;
    const u32 own = row < rows ? tokens[row] : 0;
    u32 place = 0;
    for (int start = 0; start < rows; start += 256) {
        __syncthreads();
        if (start + threadIdx.x < rows) tile[threadIdx.x] = tokens[start + threadIdx.x];
        __syncthreads();
        const int count = min(256, rows - start);
        // Before the block's own tile, equal tokens come first; after it, they do not.
        const u32 before = start < (int)blockIdx.x * 256 ? 1 : 0;
        if (start != (int)blockIdx.x * 256) {
#pragma unroll 8
            for (int i = 0; i < count; i++) place += tile[i] < own + before;
        } else {
            for (int i = 0; i < count; i++) place += tile[i] < own || (tile[i] == own && i < (int)threadIdx.x);
        }
    }
    if (row < rows) order[place] = row;
}

// A block for each place in the order; the one where a word's rows begin adds all of them, and the others leave.
// The most frequent word of a text stands in some 4% of its rows, and its block reads those one after another, each
// thread four units ahead; the blocks of rarer words run beside it.
extern "C" __global__ void __launch_bounds__(128)
embed_backward_wte(float* dwte, const act* dout, const u32* tokens, const u32* order, int rows, int c) {
    const int first = blockIdx.x;
    const u32 word = tokens[order[first]];
    if (first > 0 && tokens[order[first - 1]] == word) return;
    int end = first + 1;
    while (end < rows && tokens[order[end]] == word) end++;
    for (int i = threadIdx.x * UNIT; i < c; i += 128 * UNIT) {
        float sum[UNIT];
        load8(sum, dwte + (size_t)word * c + i, c - i);
#pragma unroll 4
        for (int n = first; n < end; n++) {
            float g[UNIT];
            load8(g, dout + (size_t)order[n] * c + i, c - i);
#pragma unroll
            for (int k = 0; k < UNIT; k++) sum[k] += g[k];
        }
        store8(dwte + (size_t)word * c + i, sum, c - i);
    }
}

extern "C" __global__ void __launch_bounds__(128)
embed_backward_wpe(float* dwpe, const act* dout, int batch, int t, int c, int accumulate) {
    const int place = blockIdx.x;
    const int occurrences = place < t ? batch : 0;
    for (int i = threadIdx.x * UNIT; i < c; i += 128 * UNIT) {
        float* sum_c = dwpe + (size_t)place * c + i;
        float sum[UNIT] = {};
        if (accumulate) load8(sum, sum_c, c - i);
#pragma unroll 4
        for (int b = 0; b < occurrences; b++) {
            float g[UNIT];
            load8(g, dout + ((size_t)b * t + place) * c + i, c - i);
#pragma unroll
            for (int k = 0; k < UNIT; k++) sum[k] += g[k];
        }
        store8(sum_c, sum, c - i);
    }
}
