// What every kernel shares: element types, 16-byte accesses, reductions, dropout's counters, and the tensor core.
//
// Kernels are CUDA C++ without headers, so that NVRTC needs nothing but this text. A module is one file after
// this one (attention and decoding also after attention.cuh), compiled with
//   -DACT_BF16=0|1   type `act` of activations and their gradients: float or bfloat16
//   -DWGT=0|1|2      type `wgt` of the weights that embed.cu and few_rows.cu read: float, bfloat16, or integers of 8 bits
//                    that stand for so many times a float of their row
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
// The code under `#ifdef __CUDA_ARCH__` is all that knows the machine. tests/simulator puts something else in its place
// to run these very files on a CPU.

typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

// ---- what the machine does ----

#ifdef __CUDA_ARCH__

/// The upper half of a float, as the machine keeps it.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

/// Nearest, ties to even.
__device__ __forceinline__ bf16 round_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

/// Two numbers rounded into one register, `low` in its lower half.
__device__ __forceinline__ u32 round_bf16x2(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// 2^x, to two units in the last place; denormal results are 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// D += A B on the tensor core, for all lanes of a warp together: A [16, 16] and B [16, 8] in bfloat16, D [16, 8] in
/// float. With g = lane / 4 and q = 2 * (lane % 4), a lane holds, two columns (of B: rows) to a register,
///   a: A[g][q], A[g + 8][q], A[g][q + 8], A[g + 8][q + 8]      b: B[q][g], B[q + 8][g]
///   d: D[g][q], D[g][q + 1], D[g + 8][q], D[g + 8][q + 1]
/// (PTX ISA, "Matrix Fragments for mma.m16n8k16"). D's layout for two neighbouring tiles of 8 columns is A's for one
/// of 16, which is what lets attention multiply its weights by the values without leaving the registers.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 tiles of bfloat16 from shared memory: lane l gives the address of row l % 8 of tile l / 8, and gets
/// elements q and q + 1 of row g of each tile. The rows of one tile are read together, so they should lie in eight
/// different sixteenths of 128 bytes.
__device__ __forceinline__ void load_tiles(u32 (&tiles)[4], const bf16* row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
}

/// The same, transposed on the way: elements g of rows q and q + 1 of each tile.
__device__ __forceinline__ void load_tiles_transposed(u32 (&tiles)[4], const bf16* row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
}

/// Begins to copy 16 bytes to shared memory, or to clear them where not `wanted`; both addresses are aligned.
/// The copy does not pass through registers, so a tile can be on its way while the one before is computed with.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool wanted) {
    u32 address = (u32)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(address), "l"(global), "r"(wanted ? 16 : 0) : "memory");
}

/// Closes the group of copies that this thread has begun since the last time.
__device__ __forceinline__ void copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for this thread's copies, all but the last `pending` groups of them.
template <int pending> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}

#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char name##_raw[]; \
    type* name = reinterpret_cast<type*>(name##_raw)

#endif

// ---- element types ----

#ifndef ACT_BF16
#define ACT_BF16 0
#endif
#ifndef WGT
#define WGT 0
#endif

#if ACT_BF16
typedef bf16 act;
#else
typedef float act;
#endif

#if WGT == 1
typedef bf16 wgt;
#elif WGT == 2
typedef signed char wgt;
#else
typedef float wgt;
#endif

__device__ __forceinline__ float to_f32(float x) { return x; }

__device__ __forceinline__ float to_f32(signed char x) { return x; }

__device__ __forceinline__ void put(float* p, float x) { *p = x; }

__device__ __forceinline__ void put(bf16* p, float x) { *p = round_bf16(x); }

/// What is left of a number that is kept as an activation.
__device__ __forceinline__ float as_act(float x) {
    act kept;
    put(&kept, x);
    return to_f32(kept);
}

// ---- eight elements at a time ----
//
// A thread's unit of work is eight consecutive elements: one 16-byte access in bfloat16, two in float, one of 8 bytes in
// integers. 16 bytes are the widest access there is, and a warp's 32 of them are 512 consecutive bytes.

#define UNIT 8

/// Whether eight elements at `p`, `valid` of which exist, can go in one piece.
template <class T> __device__ __forceinline__ bool in_one_piece(const T* p, long long valid) {
    return valid >= UNIT && reinterpret_cast<u64>(p) % (sizeof(T) == 1 ? 8 : 16) == 0;
}

__device__ __forceinline__ void unpack(float (&v)[UNIT], const uint4& raw) {
    const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

/// Eight elements that lie in one piece.
__device__ __forceinline__ void load_piece(float (&v)[UNIT], const bf16* p) {
    unpack(v, *reinterpret_cast<const uint4*>(p));
}

__device__ __forceinline__ void load_piece(float (&v)[UNIT], const float* p) {
    const float4* halves = reinterpret_cast<const float4*>(p);
    const float4 a = halves[0], b = halves[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

__device__ __forceinline__ void load_piece(float (&v)[UNIT], const signed char* p) {
    const u64 raw = *reinterpret_cast<const u64*>(p);
#pragma unroll
    for (int i = 0; i < UNIT; i++) v[i] = to_f32((signed char)(raw >> 8 * i));
}

__device__ __forceinline__ void store_piece(bf16* p, const float (&v)[UNIT]) {
    *reinterpret_cast<uint4*>(p) = make_uint4(round_bf16x2(v[0], v[1]), round_bf16x2(v[2], v[3]),
                                              round_bf16x2(v[4], v[5]), round_bf16x2(v[6], v[7]));
}

__device__ __forceinline__ void store_piece(float* p, const float (&v)[UNIT]) {
    float4* halves = reinterpret_cast<float4*>(p);
    halves[0] = make_float4(v[0], v[1], v[2], v[3]);
    halves[1] = make_float4(v[4], v[5], v[6], v[7]);
}

/// Up to eight elements from `p`; those from `valid` on are 0.
template <class T> __device__ __forceinline__ void load8(float (&v)[UNIT], const T* p, long long valid) {
    if (in_one_piece(p, valid)) return load_piece(v, p);
#pragma unroll
    for (int i = 0; i < UNIT; i++) v[i] = i < valid ? to_f32(p[i]) : 0.0f;
}

/// The first `valid` of eight elements to `p`.
template <class T> __device__ __forceinline__ void store8(T* p, const float (&v)[UNIT], long long valid) {
    if (in_one_piece(p, valid)) return store_piece(p, v);
#pragma unroll
    for (int i = 0; i < UNIT; i++) {
        if (i < valid) put(p + i, v[i]);
    }
}

// ---- sums and maxima ----
//
// Each is a tree over lanes, then over warps: the same for every run.

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

/// The sum over a block, in every thread. `scratch` has an element for each warp, and is free again on return.
template <class T> __device__ __forceinline__ T block_sum(T x, T* scratch) {
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    if (lane == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : T(0));
    __syncthreads();
    return x;
}

/// The maximum over a block, in every thread; `scratch` as for `block_sum`.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_max(x);
    if (lane == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : -INFINITE);
    __syncthreads();
    return x;
}

// ---- GELU ----

#define GELU_NONE 0
#define GELU_TANH 1
#define GELU_ERF 2

/// GELU, and its derivative at the same point.
__device__ __forceinline__ float gelu_with_derivative(float x, int kind, float& derivative) {
    if (kind == GELU_ERF) {
        const float distribution = 0.5f * erfcf(-0.70710678f * x);
        derivative = distribution + x * 0.39894228f * expf(-0.5f * x * x);
        return x * distribution;
    }
    // 0.5 (1 + tanh u) is the logistic function of 2u, which stays accurate where tanh is nearly -1.
    const float doubled = 2.0f * 0.79788456f * (x + 0.044715f * x * x * x);
    const float share = 1.0f / (1.0f + expf(-doubled));
    const float slope = 2.0f * 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x);
    // Far out, share (1 - share) is 0 and slope huge.
    const float change = share * (1.0f - share);
    derivative = share + (change == 0.0f ? 0.0f : x * change * slope);
    return x * share;
}

__device__ __forceinline__ float gelu_of(float x, int kind) {
    float unused;
    return kind == GELU_NONE ? x : gelu_with_derivative(x, kind, unused);
}

// ---- dropout ----
//
// The same function of the same counters as in src/dropout.rs; Philox4x32-10 is Salmon et al. 2011, section 3.3.

struct Mask {
    u32 key0, key1, step, site, threshold;
    float scale;
};

/// `rng`: seed low, seed high, step, first sequence of this micro-batch.
__device__ __forceinline__ Mask mask_of(const u32* rng, u32 site, u32 threshold, float scale) {
    return Mask{rng[0], rng[1], rng[2], site, threshold, scale};
}

/// The factors of elements 4 * block .. 4 * block + 4 of a row: `scale`, or 0 where dropped.
__device__ __forceinline__ void mask_factors(float (&factors)[4], const Mask& mask, u32 row, u32 block) {
    u32 x0 = row, x1 = block, x2 = mask.site, x3 = mask.step;
    u32 key0 = mask.key0, key1 = mask.key1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 p0 = (u64)0xD2511F53u * x0, p1 = (u64)0xCD9E8D57u * x2;
        x0 = (u32)(p1 >> 32) ^ x1 ^ key0;
        x1 = (u32)p1;
        x2 = (u32)(p0 >> 32) ^ x3 ^ key1;
        x3 = (u32)p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    factors[0] = x0 >= mask.threshold ? mask.scale : 0.0f;
    factors[1] = x1 >= mask.threshold ? mask.scale : 0.0f;
    factors[2] = x2 >= mask.threshold ? mask.scale : 0.0f;
    factors[3] = x3 >= mask.threshold ? mask.scale : 0.0f;
}

/// The factor of one element.
__device__ __forceinline__ float mask_factor(const Mask& mask, u32 row, u32 column) {
    float factors[4];
    mask_factors(factors, mask, row, column / 4);
    const float low = column % 2 ? factors[1] : factors[0], high = column % 2 ? factors[3] : factors[2];
    return column % 4 < 2 ? low : high;
}
