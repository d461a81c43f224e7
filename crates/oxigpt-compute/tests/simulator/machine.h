// What CUDA C++ and src/cuda/kernels/common.cuh expect of a GPU, in the words of an ordinary C++ compiler: stands before
// a file of kernels that is to run on a CPU. What runs it is machine.cpp, compiled once; this part is compiled with
// every variant of every kernel, and therefore short.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

// ---- words of CUDA C++ ----

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("block_shared")))

typedef unsigned int u32;
typedef unsigned long long u64;

struct Dim {
    unsigned x, y, z;
};


extern __thread Dim threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    u32 x, y, z, w;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct alignas(8) float2 {
    float x, y;
};

static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static inline float2 make_float2(float x, float y) { return {x, y}; }

template <class To, class From> static inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float __uint_as_float(u32 x) { return bits_as<float>(x); }

static inline float __int_as_float(int x) { return bits_as<float>(x); }

static inline int min(int a, int b) { return a < b ? a : b; }

static inline int max(int a, int b) { return a > b ? a : b; }

// ---- the machine ----

namespace machine {

/// Ends the program with a message about the thread at hand.
[[noreturn]] void fail(const char* what);

/// Waits for all threads of the block that are still there.
void block_barrier();

/// Bytes that a lane can lay down for others.
enum : size_t { SLOT = 64 };

/// Waits for the warp, all of whose lanes must come to the same instruction; each lays down a value for the others in
/// its slot, and the last to come calls `finish` on the 32 slots before anyone goes on. Returns the slots, which stay
/// until the warp's next instruction but one.
unsigned char (*exchange(const char* instruction, const void* value, size_t bytes,
                         void (*finish)(unsigned char (*)[SLOT])))[SLOT];

/// Number of the thread in its warp; blocks have one dimension.
static inline size_t lane() { return threadIdx.x % 32; }

/// Begins to copy 16 bytes, or to clear them; closes a group of copies; waits for all but the last groups.
void copy_begin(void* to, const void* from);
void copy_group();
void copy_wait(size_t pending);

/// The block's dynamic shared memory.
void* dynamic_shared();

/// A kernel of a file, and the shared memory that the file's kernels declare.
struct Kernel {
    const char* name;
    void (*run)(void** arguments);
    int parameters;
    unsigned char* shared;
    size_t shared_bytes;
};

/// Runs a kernel over a grid of blocks of so many threads. With `reverse`, the last of them takes its turn first.
void launch(const Kernel& kernel, Dim grid, unsigned threads, size_t shared_bytes, void** arguments, bool reverse);

template <class... Parameters, size_t... indices>
static void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<indices...>) {
    kernel(*static_cast<Parameters*>(arguments[indices])...);
}

template <class... Parameters> static void call(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

template <class... Parameters> static int count(void (*)(Parameters...)) { return (int)sizeof...(Parameters); }

} // namespace machine

extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_block_shared[];
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __stop_block_shared[];

/// Makes a kernel known, as the function kernel_NAME.
#define KERNEL(name)                                                             \
    extern "C" machine::Kernel kernel_##name() {                                 \
        return {#name, [](void** arguments) { machine::call(name, arguments); }, \
                machine::count(name), __start_block_shared,                      \
                (size_t)(__stop_block_shared - __start_block_shared)};           \
    }

// ---- what common.cuh leaves to the machine ----

static inline void __syncthreads() { machine::block_barrier(); }

static inline void __syncwarp() { machine::exchange("__syncwarp", nullptr, 0, nullptr); }

template <class T> static inline T __shfl_xor_sync(u32 lanes, T value, int mask) {
    if (lanes != 0xffffffffu) machine::fail("not all lanes");
    const auto slots = machine::exchange("__shfl_xor_sync", &value, sizeof value, nullptr);
    memcpy(&value, slots[machine::lane() ^ mask], sizeof value);
    return value;
}

struct bf16 {
    unsigned short bits;
};

static inline float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

static inline bf16 round_bf16(float x) {
    const u32 bits = bits_as<u32>(x);
    if (x != x) return bf16{0x7fff};
    return bf16{(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

static inline u32 round_bf16x2(float low, float high) {
    return (u32)round_bf16(high).bits << 16 | round_bf16(low).bits;
}

static inline float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

/// What a lane brings to a product, and takes away.
struct Operands {
    float d[4];
    u32 a[4], b[2];
};

/// D += A B for a whole warp, once all its lanes have laid down what they hold of the three.
static inline void multiply(unsigned char (*slots)[machine::SLOT]) {
    float a[16][16], b[16][8], d[16][8];
    const auto at = [&](int lane) { return reinterpret_cast<Operands*>(slots[lane]); };
    const auto half = [](u32 pair, int i) { return __uint_as_float(i ? pair & 0xffff0000u : pair << 16); };
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, q = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            a[g][q + i] = half(at(lane)->a[0], i), a[g + 8][q + i] = half(at(lane)->a[1], i);
            a[g][q + 8 + i] = half(at(lane)->a[2], i), a[g + 8][q + 8 + i] = half(at(lane)->a[3], i);
            b[q + i][g] = half(at(lane)->b[0], i), b[q + 8 + i][g] = half(at(lane)->b[1], i);
            d[g][q + i] = at(lane)->d[i], d[g + 8][q + i] = at(lane)->d[2 + i];
        }
    }
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 16; k++) {
            for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) at(lane)->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

static inline void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const Operands own{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    memcpy(d, machine::exchange("mma", &own, sizeof own, multiply)[machine::lane()], sizeof d);
}

static inline void load_tiles_as(u32 (&tiles)[4], const bf16* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) machine::fail("a row of a tile is not aligned");
    const int lane = (int)machine::lane(), g = lane / 4, q = lane % 4 * 2;
    const auto slots = machine::exchange(transposed ? "ldmatrix.trans" : "ldmatrix", &row, sizeof row, nullptr);
    const auto element = [&](int tile, int r, int c) {
        const bf16* row_c;
        memcpy(&row_c, slots[tile * 8 + r], sizeof row_c);
        return (u32)row_c[c].bits;
    };
    for (int i = 0; i < 4; i++) {
        tiles[i] = transposed ? element(i, q + 1, g) << 16 | element(i, q, g)
                              : element(i, g, q + 1) << 16 | element(i, g, q);
    }
}

static inline void load_tiles(u32 (&tiles)[4], const bf16* row) { load_tiles_as(tiles, row, false); }

static inline void load_tiles_transposed(u32 (&tiles)[4], const bf16* row) { load_tiles_as(tiles, row, true); }

static inline void copy_async(void* shared, const void* global, bool wanted) {
    const uintptr_t both = reinterpret_cast<uintptr_t>(shared) | (wanted ? reinterpret_cast<uintptr_t>(global) : 0);
    if (both % 16 != 0) machine::fail("an asynchronous copy is not aligned");
    machine::copy_begin(shared, wanted ? global : nullptr);
}

static inline void copy_group() { machine::copy_group(); }

template <int pending> static inline void copy_wait() { machine::copy_wait(pending); }

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(machine::dynamic_shared())
