// What every kernel shares: element types, 16-byte accesses, reductions, dropout's counters, and the tensor core.
//
// Kernels are CUDA C++ without headers, so that NVRTC needs nothing but this text. A module is one file after
// this one (attention and decoding also after attention.cuh), compiled with
//   -DACT_BF16=0|1   type `act` of activations and their gradients: float or bfloat16
//   -DWGT_BF16=0|1   type `wgt` of weights that decoding multiplies by (few_rows.cu only)
// Everything else that is real is float: master weights, gradients of parameters, moments, statistics, losses.
// Products that are large are cuBLASLt's and not here.
//
// What holds for every kernel in this folder:
//   - the list at a file's top gives grid, block and dynamic shared memory; what it does not give is 0;
//   - tensors are contiguous, begin at multiples of 16 bytes, and do not overlap unless the list says so;
//   - a width need not be a multiple of anything: rows that are not aligned go by single elements;
//   - the order of every sum depends on shapes alone; there is no atomic operation anywhere. The same
//     tensors give the same bits on any number of multiprocessors;
//   - nothing is read from the host: counters, positions and schedules are tensors, so that a phase can be
//     captured as a graph.
//
// The code between `#ifdef __CUDA_ARCH__` and `#else` is all that knows the machine. The other half is what the
// tests put in its place to run these very files on a CPU (tests/kernels/shim).
