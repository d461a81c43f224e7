// Softmax and cross-entropy over the vocabulary, which leaves the gradients where the logits were.
//
// cross_entropy    grid rows of the slice, block 512
//   (act* logits, float* losses, const unsigned* targets, int words, int padded, float scale, int grad)
//   logits [rows, padded]. losses[n] = log sum exp(z) - z[target] over the first `words` columns, in nats.
//   With grad: z = scale * (softmax(z) - onehot(target)), and 0 in the padding. losses and targets are the
//   slice's own (the host offsets them).
//   Bytes: rows * padded * act * (1, or 3 with grad; the second reading may come from the cache).
