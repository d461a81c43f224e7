// A CUDA machine on one thread of a CPU, enough to run src/cuda/kernels as they are.
//
// A block's threads are fibers: each runs until it has to wait for others (a barrier, a warp's common instruction),
// and then gives way. Blocks run one after another. Every undefined thing that can be seen from here ends the program
// with a message: lanes of a warp at different instructions, a barrier that cannot be reached, a misaligned copy.
// Shared memory is filled with NaN before each block, and copies that were begun asynchronously arrive when they are
// waited for, no earlier, so that what hardware forgives by luck shows. Threads take turns in one order or in the
// reverse: where a barrier is missing, the two give different results.
//
// What it cannot show: races between threads that give way in between in both orders, speed, memory that other blocks
// write, and the last bits of a GPU's own exponentials and products.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

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

static Dim threadIdx, blockIdx, blockDim, gridDim;

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

// ---- fibers ----

namespace machine {

[[noreturn]] static void fail(const char* what) {
    fprintf(stderr, "kernel: %s, at thread (%u, %u, %u) of block (%u, %u, %u)\n", what, threadIdx.x, threadIdx.y,
            threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    abort();
}

enum State { READY, AT_WARP, AT_BLOCK, DONE };

/// A copy to shared memory on its way.
struct Copy {
    void* to;
    const void* from;
};

#if defined(__x86_64__)
/// Saves what a call must preserve on this stack, leaves its top in `from`, and goes on with the stack `to`.
extern "C" void machine_switch(void** from, void* to);
asm(R"(
    .text
    .local machine_switch
    .type machine_switch, @function
machine_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size machine_switch, . - machine_switch
)");

struct Context {
    void* top = nullptr;

    /// A context that begins with `entry` on a stack.
    void begin(char* stack, size_t bytes, void (*entry)()) {
        void** words = reinterpret_cast<void**>(stack + bytes) - 8;
        memset(words, 0, 8 * sizeof *words);
        words[6] = reinterpret_cast<void*>(entry);
        top = words;
    }

    static void go(Context& from, Context& to) { machine_switch(&from.top, to.top); }
};
#else
#include <ucontext.h>

struct Context {
    ucontext_t context;

    void begin(char* stack, size_t bytes, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }

    static void go(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif

static const size_t STACK = 128 << 10;

struct Fiber {
    Context context;
    /// Not cleared, so that only the part that is used becomes real.
    std::unique_ptr<char[]> stack{new char[STACK]};
    State state = DONE;
    Dim index{};
    /// Groups of copies, the last of them still open.
    std::vector<std::vector<Copy>> copies;
    void* shadow = nullptr;
};

/// What lanes lay down for each other: room for two instructions, because a lane may be one ahead of another.
struct Warp {
    int arrived = 0, lanes = 0;
    unsigned turn = 0;
    const char* instruction = nullptr;
    alignas(16) unsigned char slots[2][32][32];
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Context scheduler;
static size_t block_threads, current, waiting, alive;
static const std::pair<void (*)(void**), void**>* kernel;
static std::vector<unsigned char> dynamic_shared;
static unsigned char* dynamic_base;
#if defined(__SANITIZE_ADDRESS__)
static const void* scheduler_stack;
static size_t scheduler_bytes;
static void* scheduler_shadow;
#endif

static inline void give_way() {
    Fiber& fiber = fibers[current];
#if defined(__SANITIZE_ADDRESS__)
    void** keep = fiber.state == DONE ? nullptr : &fiber.shadow;
    __sanitizer_start_switch_fiber(keep, scheduler_stack, scheduler_bytes);
#endif
    Context::go(fiber.context, scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.shadow, &scheduler_stack, &scheduler_bytes);
#endif
}

static void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
    kernel->first(kernel->second);
    Fiber& fiber = fibers[current];
    fiber.state = DONE;
    alive--;
    Warp& warp = warps[current / 32];
    warp.lanes--;
    if (warp.arrived > 0) fail("a lane has left while its warp waits for it");
    give_way();
}

static void resume(size_t index) {
    Fiber& fiber = fibers[index];
    current = index;
    threadIdx = fiber.index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_shadow, fiber.stack.get(), STACK);
#endif
    Context::go(scheduler, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_shadow, nullptr, nullptr);
#endif
}

static void release_block() {
    for (size_t i = 0; i < block_threads; i++) {
        if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
    }
}

/// Waits for all threads of the block that are still there.
static inline void block_barrier() {
    if (++waiting == alive) {
        waiting = 0;
        release_block();
        return;
    }
    fibers[current].state = AT_BLOCK;
    give_way();
}

/// Waits for the warp, all of whose lanes must come to the same instruction; each lays down `value` for the others.
/// Returns the values of all.
template <class T> static inline const T* exchange(const char* instruction, const T& value) {
    static_assert(sizeof(T) <= 32, "a slot has 32 bytes");
    Warp& warp = warps[current / 32];
    const unsigned turn = warp.turn % 2;
    // Slots of a size of their own, so that a lane can index them.
    memcpy(&warp.slots[turn][0][0] + current % 32 * sizeof(T), &value, sizeof(T));
    if (warp.arrived > 0 && warp.instruction != instruction) fail("lanes of a warp are at different instructions");
    warp.instruction = instruction;
    if (warp.lanes < 32) fail("a lane has left before an instruction of the whole warp");
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.turn++;
        for (size_t lane = current / 32 * 32; lane < current / 32 * 32 + 32; lane++) {
            if (fibers[lane].state == AT_WARP) fibers[lane].state = READY;
        }
    } else {
        fibers[current].state = AT_WARP;
        give_way();
    }
    return reinterpret_cast<const T*>(&warp.slots[turn][0][0]);
}

extern "C" unsigned char __start_block_shared[] __attribute__((weak));
extern "C" unsigned char __stop_block_shared[] __attribute__((weak));

static void run_block(bool reverse) {
    const size_t threads = block_threads;
    if (__start_block_shared) memset(__start_block_shared, 0xff, __stop_block_shared - __start_block_shared);
    if (dynamic_base) memset(dynamic_base, 0xff, dynamic_shared.size());
    for (Warp& warp : warps) warp.lanes = 32, warp.arrived = 0;
    waiting = 0, alive = threads;
    for (size_t i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        const unsigned at = (unsigned)i;
        fiber.index = Dim{at % blockDim.x, at / blockDim.x % blockDim.y, at / blockDim.x / blockDim.y};
        fiber.state = READY;
        if (fiber.copies.size() != 1 || !fiber.copies[0].empty()) fiber.copies.assign(1, {});
        fiber.context.begin(fiber.stack.get(), STACK, run_thread);
    }
    while (alive > 0) {
        bool moved = false;
        for (size_t i = 0; i < threads; i++) {
            const size_t index = reverse ? threads - 1 - i : i;
            if (fibers[index].state != READY) continue;
            moved = true;
            resume(index);
        }
        // The last of the others may have left.
        if (!moved && waiting > 0 && waiting == alive) {
            waiting = 0;
            release_block();
        } else if (!moved && alive > 0) {
            fail("threads wait for each other in vain");
        }
    }
}

typedef void (*Entry)(void**);

struct Known {
    Entry entry;
    int parameters;
};

static std::map<std::string, Known>& kernels() {
    static std::map<std::string, Known> table;
    return table;
}

template <class... Parameters, size_t... indices>
static void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<indices...>) {
    kernel(*static_cast<Parameters*>(arguments[indices])...);
}

template <class... Parameters> static void call(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

template <class... Parameters> static int count(void (*)(Parameters...)) { return (int)sizeof...(Parameters); }

struct Register {
    Register(const char* name, Entry entry, int parameters) { kernels()[name] = Known{entry, parameters}; }
};

/// Runs a kernel over a grid. False if there is none of this name.
static bool launch(const char* name, Dim grid, Dim block, size_t shared_bytes, void** arguments, bool reverse) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> guard(one_at_a_time);
    const auto found = kernels().find(name);
    if (found == kernels().end()) return false;
    const std::pair<Entry, void**> run(found->second.entry, arguments);
    kernel = &run;
    gridDim = grid, blockDim = block;
    const size_t threads = (size_t)block.x * block.y * block.z;
    if (threads % 32 != 0 || threads > 1024) fail("a block is not of whole warps");
    if (fibers.size() < threads) fibers.resize(threads);
    warps.resize(threads / 32);
    block_threads = threads;
    // Exactly as large as was asked for, so that a sanitizer sees what goes beyond.
    std::vector<unsigned char>(shared_bytes).swap(dynamic_shared);
    dynamic_base = dynamic_shared.data();
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++) {
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block(reverse);
        }
    }
    return true;
}

} // namespace machine

/// How many parameters a kernel has; -1 if there is none of this name.
extern "C" int machine_parameters(const char* name) {
    const auto found = machine::kernels().find(name);
    return found == machine::kernels().end() ? -1 : found->second.parameters;
}

/// Runs a kernel; `grid` and `block` have three sizes. With `reverse`, the last thread takes its turn first.
extern "C" int machine_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared_bytes,
                              void** arguments, bool reverse) {
    const Dim g{grid[0], grid[1], grid[2]}, b{block[0], block[1], block[2]};
    return machine::launch(name, g, b, shared_bytes, arguments, reverse) ? 0 : 1;
}

/// Makes a kernel known by its name.
#define KERNEL(name) \
    static const machine::Register register_##name(#name, [](void** a) { machine::call(name, a); }, machine::count(name));

// ---- what common.cuh leaves to the machine ----

static inline void __syncthreads() { machine::block_barrier(); }

static inline void __syncwarp() { machine::exchange("__syncwarp", 0); }

template <class T> static inline T __shfl_xor_sync(u32 lanes, T value, int mask) {
    if (lanes != 0xffffffffu) machine::fail("not all lanes");
    const size_t lane = machine::current % 32;
    return machine::exchange("__shfl_xor_sync", value)[lane ^ mask];
}

struct bf16 {
    unsigned short bits;
};

static inline float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

static inline bf16 round_bf16(float x) {
    const u32 bits = bits_as<u32>(x);
    if (std::isnan(x)) return bf16{0x7fff};
    return bf16{(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

static inline u32 round_bf16x2(float low, float high) {
    return (u32)round_bf16(high).bits << 16 | round_bf16(low).bits;
}

static inline float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

static inline float half_of(u32 pair, int half) { return to_f32(bf16{(unsigned short)(half ? pair >> 16 : pair)}); }

static inline void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Operands {
        u32 a[4], b[2];
    };
    const int lane = (int)(machine::current % 32), g = lane / 4, q = lane % 4 * 2;
    const Operands* all = machine::exchange("mma", Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    for (int i = 0; i < 4; i++) {
        const int upper = i / 2, column = q + i % 2;
        for (int k = 0; k < 16; k++) {
            const float left = half_of(all[g * 4 + k % 8 / 2].a[k / 8 * 2 + upper], k % 2);
            d[i] += left * half_of(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
        }
    }
}

static inline void load_tiles_as(u32 (&tiles)[4], const bf16* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) machine::fail("a row of a tile is not aligned");
    const int lane = (int)(machine::current % 32), g = lane / 4, q = lane % 4 * 2;
    const bf16* const* rows = machine::exchange(transposed ? "ldmatrix.trans" : "ldmatrix", row);
    for (int i = 0; i < 4; i++) {
        const bf16 first = transposed ? rows[i * 8 + q][g] : rows[i * 8 + g][q];
        const bf16 second = transposed ? rows[i * 8 + q + 1][g] : rows[i * 8 + g][q + 1];
        tiles[i] = (u32)second.bits << 16 | first.bits;
    }
}

static inline void load_tiles(u32 (&tiles)[4], const bf16* row) { load_tiles_as(tiles, row, false); }

static inline void load_tiles_transposed(u32 (&tiles)[4], const bf16* row) { load_tiles_as(tiles, row, true); }

static inline void copy_async(void* shared, const void* global, bool wanted) {
    const uintptr_t both = reinterpret_cast<uintptr_t>(shared) | (wanted ? reinterpret_cast<uintptr_t>(global) : 0);
    if (both % 16 != 0) machine::fail("an asynchronous copy is not aligned");
    machine::fibers[machine::current].copies.back().push_back({shared, wanted ? global : nullptr});
}

static inline void copy_group() { machine::fibers[machine::current].copies.emplace_back(); }

template <int pending> static inline void copy_wait() {
    auto& groups = machine::fibers[machine::current].copies;
    // The last group is open: it has not been committed.
    while (groups.size() > pending + 1) {
        for (const machine::Copy& copy : groups.front()) {
            if (copy.from) {
                memcpy(copy.to, copy.from, 16);
            } else {
                memset(copy.to, 0, 16);
            }
        }
        groups.erase(groups.begin());
    }
}

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(machine::dynamic_base)
