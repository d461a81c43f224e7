// Attention of new positions over a cache of keys and values.
//
// Legend: as in attention.cu; S positions that the cache has room for.
//
// write_cache      grid (ceil(c / 2048), T, B), block 256
//   (act* k_cache, act* v_cache, const act* qkv, const unsigned* position, int t, int s, int c)
//   Rows position.. of both caches [B, S, C] from qkv [B, T, 3C].
//   Bytes: B * T * c * act * 4.
//
// cached_attention grid (T, H, B), block 256, shared 8 * (D + 2) * 4 (compiled like attention, -DDROPOUT=0)
//   (act* out, const act* qkv, const act* k_cache, const act* v_cache, const unsigned* position,
//    int t, int s, int heads, float scale, float out_scale)
//   out [B, T, C]: row i attends to 0..=position + i. After write_cache. Any D up to 1024.
//   Bytes: 2 * D * (position + i + 1) * act for each block.
