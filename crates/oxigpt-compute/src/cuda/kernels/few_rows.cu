// Linear layers over a few rows, as in decoding: what counts is that every weight is read once, by all of the chip.
//
// few_rows_in_out  grid ceil(o / 32), block 256
//   (act* out, act* before, const act* x, const wgt* w, const float* bias, int rows, int c, int o, int gelu)
//   out [rows, o] = gelu(x [rows, c] W [c, o] + bias); rows <= 8. bias may be null. gelu: 0 none, 1 tanh,
//   2 erf; `before` (null, or [rows, o]) gets what the GELU was applied to.
//   Bytes: c * o * wgt.
// few_rows_out_in  grid ceil(o / 8), block 256
//   The same for W [o, c].
