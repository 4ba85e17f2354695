// Blocks of a kernel on the CPU: each thread is a fiber that runs until it has to wait for others.
//
// Blocks run one after the other, warps as far as they come before the next one starts, lanes in
// turn; `reversed` turns all three orders round. So the result is the same each time, and a kernel
// that lacks a barrier reads what is not there yet. Shared memory is all ones (NaN, -1) at the
// start of a block.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>

extern "C" {  // what the linker knows of this library
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace trtforge_host {

constexpr int kWarp = 32, kMostThreads = 1024;
constexpr size_t kStack = 256 << 10, kPage = 4096;

/** What the lanes of a warp brought when they met; all ones for a lane that did not come. */
struct Brought {
    unsigned lanes;
    uint64_t values[kWarp];
};

/** Lanes of a warp that meet: each brings a value, and goes on when all have come. */
struct Meeting {
    unsigned mask, turn;
    const char* what;
    Brought brought[2];  ///< in this turn, and in the one before, which some still read
};

struct Warp {
    unsigned live;
    int meetings;
    Meeting meeting[kWarp];
};

struct Fiber {
    ucontext_t start;
    jmp_buf state;
    bool started, done;
};

struct Barrier {
    int arrived, turn;
    int count[2];  ///< of those for which the predicate held
};

struct Machine {
    void (*invoke)(void*, const void* const*);
    void* kernel;
    const void* const* arguments;
    int threads, current, live;
    bool moved;  ///< something happened since the scheduler looked
    Barrier barrier;
    Warp warps[kMostThreads / kWarp];
    Fiber fibers[kMostThreads];
    jmp_buf scheduler, failed;
    char signal_stack[1 << 16];  ///< for what happens where a fiber's own stack is full
    char* stacks;
    char* shared;
    size_t shared_bytes;
    char problem[512];
};

// Not in .bss: that is where __shared__ variables are, which each block finds filled.
#define TRTFORGE_HOST_STATE __attribute__((section(".data"))) static
TRTFORGE_HOST_STATE Machine* machine = nullptr;
TRTFORGE_HOST_STATE uint3 threadIdx = {}, blockIdx = {};
TRTFORGE_HOST_STATE dim3 blockDim = {}, gridDim = {};
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

/** End the kernel: what the thread did, and where in this library. */
[[noreturn]] inline void fail(const char* what, size_t place = 0) {
    snprintf(machine->problem, sizeof machine->problem, "%zx|thread %u of block %u %s", place,
             threadIdx.x, blockIdx.x, what);
    _longjmp(machine->failed, 1);
}

inline void on_signal(int signal, siginfo_t*, void* context) {
#if defined(__x86_64__)
    const auto counter = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    const auto counter = static_cast<ucontext_t*>(context)->uc_mcontext.pc;
#else
    const uintptr_t counter = 0;
#endif
    fail(signal == SIGSEGV || signal == SIGBUS
             ? "reads or writes memory that is not the kernel's"
             : "does what C++ does not define: a misaligned access, an index outside an array, an "
               "overflow of int, a division by zero, or a wrong shift",
         uintptr_t(counter) - uintptr_t(__ehdr_start));
}

/** Give the others a turn. */
inline void pause() {
    if (!_setjmp(machine->fibers[machine->current].state)) _longjmp(machine->scheduler, 1);
}

inline Warp& my_warp() { return machine->warps[machine->current / kWarp]; }
inline unsigned my_bit() { return 1u << machine->current % kWarp; }

inline void end_turn_if_all_came(Barrier& barrier) {
    if (!barrier.arrived || barrier.arrived < machine->live) return;
    barrier.arrived = 0;
    barrier.count[++barrier.turn % 2] = 0;
}

inline void end_turn_if_all_came(Meeting& meeting, unsigned live) {
    const unsigned came = meeting.brought[meeting.turn % 2].lanes;
    if (!came || (meeting.mask & live & ~came)) return;
    ++meeting.turn;
    memset(&meeting.brought[meeting.turn % 2], 0xff, sizeof(Brought));
    meeting.brought[meeting.turn % 2].lanes = 0;
}

/** Wait for all threads of the block; returns for how many of them `predicate` held. */
inline int wait_for_block(bool predicate) {
    Barrier& barrier = machine->barrier;
    const int turn = barrier.turn;
    barrier.count[turn % 2] += predicate;
    ++barrier.arrived;
    machine->moved = true;
    end_turn_if_all_came(barrier);
    while (barrier.turn == turn) pause();
    return barrier.count[turn % 2];
}

/** Wait for the lanes of `mask` that have not returned; returns their values. */
inline const Brought& meet(unsigned mask, uint64_t value, const char* what) {
    Warp& warp = my_warp();
    if (!(mask & my_bit())) fail("is not in the mask that it gives to a warp function");
    int i = 0;
    while (i < warp.meetings && warp.meeting[i].mask != mask) ++i;
    if (i == kWarp) fail("uses more than 32 masks in one warp");
    Meeting& meeting = warp.meeting[i];
    if (i == warp.meetings) {
        ++warp.meetings;
        memset(&meeting, 0xff, sizeof meeting);
        meeting.mask = mask;
        meeting.turn = meeting.brought[0].lanes = 0;
    }
    const unsigned turn = meeting.turn;
    Brought& brought = meeting.brought[turn % 2];
    if (brought.lanes && strcmp(meeting.what, what))
        fail("calls a warp function while other lanes of its mask call another one");
    meeting.what = what;
    brought.values[machine->current % kWarp] = value;
    brought.lanes |= my_bit();
    machine->moved = true;
    end_turn_if_all_came(meeting, warp.live);
    while (meeting.turn == turn) pause();
    return brought;
}

inline void leave() {
    Warp& warp = my_warp();
    warp.live &= ~my_bit();
    --machine->live;
    machine->fibers[machine->current].done = machine->moved = true;
    for (int i = 0; i < warp.meetings; ++i) end_turn_if_all_came(warp.meeting[i], warp.live);
    end_turn_if_all_came(machine->barrier);
    pause();
}

inline void fiber() {
    for (;;) {
        machine->invoke(machine->kernel, machine->arguments);
        leave();
    }
}

__attribute__((noinline)) inline void resume(int thread) {
    Fiber& fiber = machine->fibers[thread];
    machine->current = thread;
    threadIdx.x = unsigned(thread);
    if (_setjmp(machine->scheduler)) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void run_warp(int warp, bool reversed) {
    const int first = warp * kWarp, end = min(machine->threads, first + kWarp);
    do {
        machine->moved = false;
        for (int i = first; i < end; ++i) {
            const int thread = reversed ? first + end - 1 - i : i;
            if (!machine->fibers[thread].done) resume(thread);
        }
    } while (machine->moved && machine->warps[warp].live);
}

inline void run_block(bool reversed) {
    const int warps = (machine->threads + kWarp - 1) / kWarp;
    memset(__bss_start, 0xff, size_t(_end - __bss_start));
    if (machine->shared_bytes) memset(machine->shared, 0xff, machine->shared_bytes);
    machine->live = machine->threads;
    machine->barrier = {};
    for (int i = 0; i < machine->threads; ++i) machine->fibers[i].done = false;
    for (int i = 0; i < warps; ++i) {
        const int lanes = min(kWarp, machine->threads - i * kWarp);
        machine->warps[i].live = lanes == kWarp ? ~0u : (1u << lanes) - 1;
        machine->warps[i].meetings = 0;
    }
    while (machine->live) {
        const int live = machine->live, turn = machine->barrier.turn;
        for (int i = 0; i < warps; ++i) run_warp(reversed ? warps - 1 - i : i, reversed);
        if (machine->live == live && machine->barrier.turn == turn)
            fail("and others wait for threads that never come to the same barrier");
    }
}

/** While it lives, signals end the kernel and not the process. */
struct Catch {
    struct sigaction earlier[5];
    stack_t earlier_stack;
    Catch() {
        stack_t stack = {};
        stack.ss_sp = machine->signal_stack;
        stack.ss_size = sizeof machine->signal_stack;
        sigaltstack(&stack, &earlier_stack);
        struct sigaction handler = {};
        handler.sa_sigaction = on_signal;
        handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        for (int i = 0; i < 5; ++i) sigaction(kSignals[i], &handler, &earlier[i]);
    }
    ~Catch() {
        for (int i = 0; i < 5; ++i) sigaction(kSignals[i], &earlier[i], nullptr);
        sigaltstack(&earlier_stack, nullptr);
    }
};

inline char* map(size_t bytes) {
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return found == MAP_FAILED ? nullptr : static_cast<char*>(found);
}

/** Start all blocks; what goes wrong is left in `machine->problem`. */
inline void run_blocks(int grid, bool reversed) {
    for (int i = 0; i < machine->threads; ++i) {
        ucontext_t& start = machine->fibers[i].start;
        getcontext(&start);
        start.uc_stack.ss_sp = machine->stacks + size_t(i) * kStack + kPage;
        start.uc_stack.ss_size = kStack - kPage;
        mprotect(machine->stacks + size_t(i) * kStack, kPage, PROT_NONE);
        makecontext(&start, fiber, 0);
    }
    if (_setjmp(machine->failed)) return;
    for (int i = 0; i < grid; ++i) {
        blockIdx.x = unsigned(reversed ? grid - 1 - i : i);
        run_block(reversed);
    }
}

/** Run a kernel; returns nullptr, or "<place in the library>|what went wrong" (valid until the next call). */
template <typename... P>
const char* launch(void (*kernel)(P...), const void* const* arguments, const int* sizes, int count,
                   int grid, int block, int shared_bytes, bool reversed) {
    static_assert(sizeof...(P) > 0, "a kernel has arguments");
    const int wanted[] = {int(sizeof(P))...};
    if (count != int(sizeof...(P))) return "0|the kernel takes another number of arguments";
    for (int i = 0; i < count; ++i)
        if (sizes[i] != wanted[i])
            return "0|an argument is a pointer where the kernel takes an int, or an int where "
                   "it takes a pointer";
    if (machine) munmap(machine, sizeof(Machine));
    machine = reinterpret_cast<Machine*>(map(sizeof(Machine)));
    const size_t shared = (size_t(shared_bytes) + kPage - 1) / kPage * kPage;
    char* memory = map(shared + kPage);
    if (!machine || !memory) return "0|there is not enough memory";
    mprotect(memory + shared, kPage, PROT_NONE);  // what lies behind shared memory
    machine->shared = memory + shared - (size_t(shared_bytes) + 15) / 16 * 16;
    machine->shared_bytes = size_t(shared_bytes);
    machine->invoke = [](void* entry, const void* const* given) {
        [&]<size_t... I>(std::index_sequence<I...>) {
            reinterpret_cast<void (*)(P...)>(entry)(*static_cast<P const*>(given[I])...);
        }(std::index_sequence_for<P...>());
    };
    machine->kernel = reinterpret_cast<void*>(kernel);
    machine->arguments = arguments;
    machine->threads = block;
    blockDim = dim3(unsigned(block));
    gridDim = dim3(unsigned(grid));
    machine->stacks = map(size_t(block) * kStack);
    if (!machine->stacks) return "0|there is not enough memory";
    {
        const Catch signals;
        run_blocks(grid, reversed);
    }
    munmap(machine->stacks, size_t(block) * kStack);
    munmap(memory, shared + kPage);
    return machine->problem[0] ? machine->problem : nullptr;
}

template <typename T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(machine->shared);
}

}  // namespace trtforge_host

using trtforge_host::blockDim;
using trtforge_host::blockIdx;
using trtforge_host::gridDim;
using trtforge_host::threadIdx;
