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
// to_bf16          grid ceil(n / 2048), block 256   (bf16* out, const float* x, long long n)
// to_float         grid ceil(n / 2048), block 256   (float* out, const bf16* x, long long n)
