// Layer norm with the residual addition before it, its adjoint, and the column sums that gradients of biases are.
//
// layer_norm       grid ceil(rows / W), block 32 * W, shared W * c * 4, with W = clamp(8192 / c, 1, 8)
//   (act* out, float* mean, float* rstd, const act* x, const act* delta, act* sum,
//    const float* weight, const float* bias, int rows, int c)
//   With delta: sum = x + delta, and sum is what is normalised. Else delta and sum are null. bias may be null.
//   Bytes: rows * c * act * 2 (4 with delta).
//
// layer_norm_backward   grid P = min(ceil(rows / 8), 512), block 256, shared 2 * c * 4
//   (act* dx, float* partials, const act* dout, const act* addend, const act* x,
//    const float* weight, const float* mean, const float* rstd, int rows, int c)
//   dx = addend + adjoint; addend may be null, and dx may be addend or dout. partials [P, 2, c]: sums of
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
