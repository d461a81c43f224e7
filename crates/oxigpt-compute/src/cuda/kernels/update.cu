// The global norm of the gradients, and AdamW over all parameters in one launch.
//
// Both go by two tables that the host writes once: the parameters, and the chunks they are cut into, of at most
// 4096 elements, one block each.
//   struct Slot  { float* parameter; const float* gradient; float* m; float* v; bf16* copy; u64 decay; }   48 bytes
//   struct Chunk { unsigned slot; unsigned len; u64 start; }                                              16 bytes
// copy: the weights in bfloat16, for products; null where there are none. decay: 0 or 1.
// start is a multiple of 4096.
//
// squares          grid number of chunks, block 256   (double* partials, const Slot* slots, const Chunk* chunks)
//   One sum of squares a chunk. Bytes: 4 a parameter.
// norm             grid 1, block 1024                 (float* norm, const double* partials, int parts)
//   The root of their sum.
// adamw            grid number of chunks, block 256
//   (const Slot* slots, const Chunk* chunks, const float* norm, const float* schedule,
//    double beta1, double beta2, double eps, double weight_decay, double grad_clip)
//   schedule: learning rate, 1 - beta1^t, 1 - beta2^t. Bytes: 28 a parameter, 30 with a copy.
// copy_weights     grid number of chunks, block 256   (const Slot* slots, const Chunk* chunks)
//   The bfloat16 copies alone, after weights have come from the host.
