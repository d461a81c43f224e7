// Token and position embeddings, and their adjoint.
//
// embed            grid ceil(rows / 8), block 256
//   (act* out, const unsigned* tokens, const unsigned* position, const float* wte, const float* wpe,
//    int rows, int t, int c)
//   out[n] = wte[tokens[n]] + wpe[position + n % t]. `position` may be null: 0. rows = B*T.
//   Bytes: rows * c * (4 + 4 + act); wpe comes from the cache.
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
