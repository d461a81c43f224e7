// A CUDA machine on one thread of a CPU, enough to run src/cuda/kernels as they are.
//
// A block's threads are fibers: each runs until it has to wait for others (a barrier, a warp's common instruction),
// and then gives way to the next of its warp; a warp goes on until it is at a barrier. Blocks run one after another. Every undefined thing that can be seen from here ends the program
// with a message: lanes of a warp at different instructions, a barrier that cannot be reached, a misaligned copy.
// Shared memory is filled with NaN before each block, and copies that were begun asynchronously arrive when they are
// waited for, no earlier, so that what hardware forgives by luck shows. Threads take turns in one order or in the
// reverse: where a barrier is missing, the two give different results.
//
// What it cannot show: races between threads that give way in between in both orders, speed, memory that other blocks
// write, and the last bits of a GPU's own exponentials and products.
//
// Each thread of the program that launches kernels has a machine of its own.

#include "machine.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

__thread Dim threadIdx, blockIdx, blockDim, gridDim;

namespace machine {

void fail(const char* what) {
    fprintf(stderr, "kernel: %s, at thread %u of block (%u, %u, %u)\n", what, threadIdx.x, blockIdx.x, blockIdx.y, blockIdx.z);
    abort();
}

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

/// Bytes of a thread's stack. Not a multiple of a page, lest the same lines of the cache serve all of them.
static const size_t STACK = (128 << 10) + 576;

enum State { READY, AT_WARP, AT_BLOCK, DONE };

/// A copy to shared memory on its way.
struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    Context context;
    /// Not cleared, so that only the part that is used becomes real.
    std::unique_ptr<char[]> stack{new char[STACK]};
    State state = DONE;
    /// Groups of copies, the last of them still open.
    std::vector<std::vector<Copy>> copies;
    void* shadow = nullptr;
};

/// What lanes lay down for each other: room for two instructions, because a lane may be one ahead of another.
struct Warp {
    int arrived = 0, lanes = 0;
    unsigned turn = 0;
    const char* instruction = nullptr;
    alignas(16) unsigned char slots[2][32][SLOT];
};

/// A multiprocessor with one block on it.
struct Multiprocessor {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Context scheduler;
    size_t threads, current, waiting, alive;
    bool reverse;
    const Kernel* kernel;
    void** arguments;
    std::vector<unsigned char> dynamic;
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    size_t stack_bytes;
    void* shadow;
#endif
};

static thread_local std::unique_ptr<Multiprocessor> own;

/// The same, which every instruction asks for.
static __thread Multiprocessor* here;

void* dynamic_shared() { return here->dynamic.data(); }

/// Goes on with a fiber, or with the scheduler, from either.
static void go(Fiber* from, Fiber* to) {
    if (to) threadIdx.x = (unsigned)(here->current = to - here->fibers.data());
    Context& left = from ? from->context : here->scheduler;
#if defined(__SANITIZE_ADDRESS__)
    void** shadow = from ? &from->shadow : &here->shadow;
    __sanitizer_start_switch_fiber(from && from->state == DONE ? nullptr : shadow,
                                   to ? to->stack.get() : here->stack, to ? STACK : here->stack_bytes);
#endif
    Context::go(left, to ? to->context : here->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(*shadow, nullptr, nullptr);
#endif
}

/// Lets the next lane of the warp go on that can, or else the scheduler choose.
static void give_way() {
    Fiber* const warp = &here->fibers[here->current / 32 * 32];
    Fiber* const own = &here->fibers[here->current];
    for (size_t step = 1; step < 32; step++) {
        Fiber& next = warp[(lane() + (here->reverse ? 32 - step : step)) % 32];
        if (next.state == READY) return go(own, &next);
    }
    go(own, nullptr);
}

static void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
    // The first of all comes from the scheduler.
    const bool first = !here->stack;
    __sanitizer_finish_switch_fiber(nullptr, first ? &here->stack : nullptr, first ? &here->stack_bytes : nullptr);
#endif
    here->kernel->run(here->arguments);
    here->fibers[here->current].state = DONE;
    here->alive--;
    Warp& warp = here->warps[here->current / 32];
    warp.lanes--;
    if (warp.arrived > 0) fail("a lane has left while its warp waits for it");
    give_way();
}

static void release(size_t first, size_t end, State state) {
    for (size_t i = first; i < end; i++) {
        if (here->fibers[i].state == state) here->fibers[i].state = READY;
    }
}

static void release_block() {
    here->waiting = 0;
    release(0, here->threads, AT_BLOCK);
}

void block_barrier() {
    if (++here->waiting == here->alive) return release_block();
    here->fibers[here->current].state = AT_BLOCK;
    give_way();
}

unsigned char (*exchange(const char* instruction, const void* value, size_t bytes,
                         void (*finish)(unsigned char (*)[SLOT])))[SLOT] {
    Warp& warp = here->warps[here->current / 32];
    const auto slots = warp.slots[warp.turn % 2];
    if (bytes) memcpy(slots[lane()], value, bytes);
    if (warp.arrived > 0 && warp.instruction != instruction) {
        fail("lanes of a warp are at different instructions");
    }
    warp.instruction = instruction;
    if (warp.lanes < 32) fail("a lane has left before an instruction of the whole warp");
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.turn++;
        if (finish) finish(slots);
        release(here->current / 32 * 32, here->current / 32 * 32 + 32, AT_WARP);
    } else {
        here->fibers[here->current].state = AT_WARP;
        give_way();
    }
    return slots;
}

void copy_begin(void* to, const void* from) { here->fibers[here->current].copies.back().push_back({to, from}); }

void copy_group() { here->fibers[here->current].copies.emplace_back(); }

void copy_wait(size_t pending) {
    auto& groups = here->fibers[here->current].copies;
    // The last group is open: it has not been committed.
    while (groups.size() > pending + 1) {
        for (const Copy& copy : groups.front()) {
            if (copy.from) {
                memcpy(copy.to, copy.from, 16);
            } else {
                memset(copy.to, 0, 16);
            }
        }
        groups.erase(groups.begin());
    }
}

static void begin_block() {
    if (here->kernel->shared_bytes) memset(here->kernel->shared, 0xff, here->kernel->shared_bytes);
    if (!here->dynamic.empty()) memset(here->dynamic.data(), 0xff, here->dynamic.size());
    for (Warp& warp : here->warps) warp.lanes = 32, warp.arrived = 0;
    here->waiting = 0, here->alive = here->threads;
    for (size_t i = 0; i < here->threads; i++) {
        Fiber& fiber = here->fibers[i];
        fiber.state = READY;
        if (fiber.copies.size() != 1 || !fiber.copies[0].empty()) fiber.copies.assign(1, {});
        fiber.context.begin(fiber.stack.get(), STACK, run_thread);
    }
}

static void run_block() {
    begin_block();
    while (here->alive > 0) {
        bool moved = false;
        for (size_t i = 0; i < here->threads; i++) {
            Fiber& next = here->fibers[here->reverse ? here->threads - 1 - i : i];
            if (next.state != READY) continue;
            moved = true;
            go(nullptr, &next);
        }
        // The last of the others may have left.
        if (!moved && here->waiting > 0 && here->waiting == here->alive) {
            release_block();
        } else if (!moved && here->alive > 0) {
            fail("threads wait for each other in vain");
        }
    }
}

void launch(const Kernel& kernel, Dim grid, unsigned threads, size_t shared_bytes, void** arguments, bool reverse) {
    if (!own) own.reset(here = new Multiprocessor);
    here->kernel = &kernel, here->arguments = arguments;
    here->threads = threads, here->reverse = reverse;
    gridDim = grid, blockDim = Dim{threads, 1, 1};
    if (threads % 32 != 0 || threads > 1024) fail("a block is not of whole warps");
    if (here->fibers.size() < threads) here->fibers.resize(threads);
    here->warps.resize(threads / 32);
    // Exactly as large as was asked for, so that a sanitizer sees what goes beyond.
    std::vector<unsigned char>(shared_bytes).swap(here->dynamic);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++) {
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block();
        }
    }
}

} // namespace machine
