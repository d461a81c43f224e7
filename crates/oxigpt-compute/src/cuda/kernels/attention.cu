// Causal attention on tensor cores (act = bfloat16 only, D <= 128), tiled: no T x T matrix is ever in memory.
//
// Legend: B batch, T positions, H heads, D width of a head; i query, j key; C = H*D.
// Let Dp = D rounded up to a multiple of 16, R = 2 * (Dp + 8) bytes, N = 64 where Dp <= 64, else 32.
//
// attention        grid (ceil(T / 64), H, B), block 128, shared (64 + 4 * N) * R
//   (act* out, float* lse, const act* qkv, int t, int heads, float scale, float out_scale,
//    const unsigned* rng, unsigned site, unsigned threshold, float keep_scale)
//   qkv [B, T, 3C], out [B, T, C], lse [B, H, T] (written for softmax only). scale = 1 / sqrt D.
//   out_scale: what the sum of weighted values is multiplied by, 1 or 1 / divisor (pointwise kinds).
//   rng, site, threshold, keep_scale: dropout, as in `dropout` of elementwise.cu; null and 0 if -DDROPOUT=0.
//   Products: 4 * D flops for each of B * H * T^2 / 2 pairs.
//
// attention_delta  grid ceil(B * T * H / 8), block 256
//   (float* delta, const act* out, const act* dout, int rows, int t, int heads)
//   delta [B, H, T] = sum over a head of out * dout; rows = B * T. For softmax only (others may pass any delta).
//   Bytes: B * T * C * act * 2.
//
// attention_backward_kv   grid (ceil(T / 64), H, B), block 128, shared (128 + 4 * N) * R
// attention_backward_q    grid (ceil(T / 64), H, B), block 128, shared (128 + 4 * N) * R
//   (act* dqkv, const act* qkv, const act* dout, const float* lse, const float* delta, int t, int heads,
//    float scale, float out_scale, const unsigned* rng, unsigned site, unsigned threshold, float keep_scale)
//   The first writes the k and v of dqkv [B, T, 3C], the second its q; in any order.
//   Products: 8 * D and 6 * D flops a pair. One kernel could do with 10 in all, but then blocks would have to
//   add to the same dq, which takes atomics (another order each time) or a chain of waiting blocks.
