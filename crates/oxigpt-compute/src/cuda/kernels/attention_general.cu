// Causal attention without tensor cores: for float activations, and for heads wider than 128.
//
// The same kernels, arguments and results as attention.cu, for either type of activations and any D up to 256,
// with other blocks: let R = 32 rows a block.
//
// attention               grid (ceil(T / 32), H, B), block 256, shared (32 * D + 64 * (D + 1) + 8 * 4 * 32) * 4
// attention_delta         as in attention.cu
// attention_backward_kv   grid (ceil(T / 32), H, B), block 256, shared (64 * D + 64 * (D + 1) + 8 * 8 * 32) * 4
// attention_backward_q    grid (ceil(T / 32), H, B), block 256, shared (64 * D + 64 * (D + 1) + 8 * 4 * 32) * 4
