// The scheduler of the emulated GPU, and every kernel compiled for it.

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ucontext.h>

#include "emulation.h"

namespace emu {

thread_local Place here;

namespace {

constexpr size_t STACK = 128 << 10;
constexpr unsigned WARP = 32, MAX_THREADS = 1024;

enum class State { Ready, AtWarp, AtBlock, Done };

struct Fiber {
    // The first switch goes through a context, all others through jumps, which need no system call.
    jmp_buf jump;
    ucontext_t first;
    std::unique_ptr<unsigned char[]> stack;
    bool started = false;
    State state = State::Done;
    Dim3 thread;
    // Parity of the warp operations so far: two sets of slots take turns, so that nobody overwrites what others still read.
    unsigned turn = 0;
};

struct Slots {
    unsigned char bytes[2][WARP * SLOT];
};

struct Kernel {
    const char *name;
    void *kernel;
    Call call;
};

std::vector<Kernel> &kernels() {
    static std::vector<Kernel> all;
    return all;
}

// What one thread of the host needs to run blocks.
struct Machine {
    std::vector<Fiber> fibers{MAX_THREADS};
    std::vector<Slots> slots{MAX_THREADS / WARP};
    jmp_buf scheduler;
    ucontext_t origin;
    unsigned current = 0;
    const Kernel *kernel = nullptr;
    void **args = nullptr;
};

thread_local Machine machine;

// Back to the scheduler; returns when it is this fiber's turn again.
void pause(State state) {
    Fiber &self = machine.fibers[machine.current];
    self.state = state;
    if (_setjmp(self.jump) == 0) _longjmp(machine.scheduler, 1);
}

// What a fiber does for ever: its part of a block, then that of the next.
void fiber_main() {
    for (;;) {
        machine.kernel->call(machine.kernel->kernel, machine.args);
        pause(State::Done);
    }
}

void run_fiber(unsigned i) {
    Fiber &fiber = machine.fibers[i];
    machine.current = i;
    here.thread = fiber.thread;
    if (_setjmp(machine.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.jump, 1);
    fiber.started = true;
    fiber.stack.reset(new unsigned char[STACK]);
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack.get();
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, fiber_main, 0);
    swapcontext(&machine.origin, &fiber.first);
}

// Runs a warp until all its lanes wait for the block or are done.
void run_warp(unsigned first, unsigned end) {
    for (;;) {
        for (unsigned i = first; i < end; i++) {
            if (machine.fibers[i].state == State::Ready) run_fiber(i);
        }
        unsigned n_at_warp = 0, n_alive = 0;
        for (unsigned i = first; i < end; i++) {
            n_alive += machine.fibers[i].state != State::Done;
            n_at_warp += machine.fibers[i].state == State::AtWarp;
        }
        if (n_at_warp == 0) return;
        if (n_at_warp < n_alive) {
            std::fprintf(stderr, "emulation: lanes of a warp of `%s` part ways\n", machine.kernel->name);
            std::abort();
        }
        for (unsigned i = first; i < end; i++) {
            if (machine.fibers[i].state == State::AtWarp) machine.fibers[i].state = State::Ready;
        }
    }
}

void run_block(unsigned n_threads) {
    const Dim3 dim = here.block_dim;
    for (unsigned i = 0; i < n_threads; i++) {
        Fiber &fiber = machine.fibers[i];
        fiber.state = State::Ready;
        fiber.thread = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
        fiber.turn = 0;
    }
    for (;;) {
        unsigned n_waiting = 0;
        for (unsigned first = 0; first < n_threads; first += WARP) {
            run_warp(first, first + WARP < n_threads ? first + WARP : n_threads);
        }
        for (unsigned i = 0; i < n_threads; i++) {
            if (machine.fibers[i].state == State::AtBlock) {
                machine.fibers[i].state = State::Ready;
                n_waiting++;
            }
        }
        if (n_waiting == 0) return;
    }
}

} // namespace

const unsigned char *exchange(const void *mine, size_t size) {
    Fiber &self = machine.fibers[machine.current];
    unsigned char *slots = machine.slots[machine.current / WARP].bytes[self.turn];
    self.turn ^= 1;
    if (size > 0) std::memcpy(slots + machine.current % WARP * SLOT, mine, size);
    pause(State::AtWarp);
    return slots;
}

void block_barrier() { pause(State::AtBlock); }

void add_kernel(const char *name, void *kernel, Call call) { kernels().push_back({name, kernel, call}); }

} // namespace emu

// Kernels, after all that they need.
#include "all_kernels.h"

// Runs a kernel to its end: 0, 1 for a name that is not known, 2 for a block that no GPU would run.
extern "C" int longtake_emulation_launch(const char *name, const unsigned *grid, const unsigned *block, void **args) {
    using namespace emu;
    const unsigned n_threads = block[0] * block[1] * block[2];
    if (n_threads == 0 || n_threads > MAX_THREADS || grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return 2;
    if (grid[1] > 65535 || grid[2] > 65535) return 2;
    machine.kernel = nullptr;
    for (const Kernel &kernel : kernels()) {
        if (std::strcmp(kernel.name, name) == 0) machine.kernel = &kernel;
    }
    if (machine.kernel == nullptr) return 1;
    machine.args = args;
    here.block_dim = {block[0], block[1], block[2]};
    here.grid_dim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                here.block = {x, y, z};
                run_block(n_threads);
            }
        }
    }
    return 0;
}
