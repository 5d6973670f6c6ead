// The scheduler of the emulated GPU. Kernels, compiled file by file, make themselves known to it before `main`.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ucontext.h>

#include "emulation.h"

namespace emu {

__thread Place here;

namespace {

constexpr size_t STACK = 128 << 10;
constexpr unsigned WARP = 32, MAX_THREADS = 1024;

enum State : unsigned char { Ready, AtWarp, AtBlock, Done };

// As `__builtin_setjmp` fills it: far quicker to leave and to enter than what libraries save.
using Jump = void *[5];

struct Fiber {
    Jump jump;
    std::unique_ptr<unsigned char[]> stack;
    bool started = false;
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
    // Of each fiber, side by side: the scheduler looks through them all the time.
    State states[MAX_THREADS];
    std::vector<Slots> slots{MAX_THREADS / WARP};
    Jump scheduler;
    ucontext_t origin;
    unsigned current = 0;
    const Kernel *kernel = nullptr;
    void **args = nullptr;
};

// That of this thread, made by its first launch.
__thread Machine *machine;

// A jump never stands in the function that its target stands in, nor in one that is inlined there.
[[noreturn]] __attribute__((noinline)) void jump(Jump &to) { __builtin_longjmp(to, 1); }

// Back to the scheduler; returns when it is this fiber's turn again.
__attribute__((noinline)) void pause(State state) {
    Machine &m = *machine;
    m.states[m.current] = state;
    if (__builtin_setjmp(m.fibers[m.current].jump) == 0) jump(m.scheduler);
}

// What a fiber does for ever: its part of a block, then that of the next.
void fiber_main() {
    for (;;) {
        machine->kernel->call(machine->kernel->kernel, machine->args);
        pause(Done);
    }
}

// A new fiber is entered through a context, all others by a jump.
__attribute__((noinline)) void enter(Machine &m, Fiber &fiber) {
    if (fiber.started) jump(fiber.jump);
    fiber.started = true;
    fiber.stack.reset(new unsigned char[STACK]);
    ucontext_t first;
    getcontext(&first);
    first.uc_stack.ss_sp = fiber.stack.get();
    first.uc_stack.ss_size = STACK;
    first.uc_link = nullptr;
    makecontext(&first, fiber_main, 0);
    swapcontext(&m.origin, &first);
}

// Runs a fiber until it waits.
__attribute__((noinline)) void run_fiber(Machine &m, unsigned i) {
    m.current = i;
    here.thread = m.fibers[i].thread;
    if (__builtin_setjmp(m.scheduler) == 0) enter(m, m.fibers[i]);
}

// Runs a warp until all its lanes wait for the block or are done.
void run_warp(Machine &m, unsigned first, unsigned end) {
    for (;;) {
        unsigned n_at_warp = 0, n_alive = 0;
        for (unsigned i = first; i < end; i++) {
            if (m.states[i] == Ready) run_fiber(m, i);
        }
        for (unsigned i = first; i < end; i++) {
            n_alive += m.states[i] != Done;
            n_at_warp += m.states[i] == AtWarp;
        }
        if (n_at_warp == 0) return;
        if (n_at_warp < n_alive) {
            std::fprintf(stderr, "emulation: lanes of a warp of `%s` part ways\n", m.kernel->name);
            std::abort();
        }
        for (unsigned i = first; i < end; i++) {
            if (m.states[i] == AtWarp) m.states[i] = Ready;
        }
    }
}

void run_block(Machine &m, unsigned n_threads) {
    const Dim3 dim = here.block_dim;
    for (unsigned i = 0; i < n_threads; i++) {
        Fiber &fiber = m.fibers[i];
        m.states[i] = Ready;
        fiber.thread = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
        fiber.turn = 0;
    }
    for (;;) {
        unsigned n_waiting = 0;
        for (unsigned first = 0; first < n_threads; first += WARP) {
            run_warp(m, first, first + WARP < n_threads ? first + WARP : n_threads);
        }
        for (unsigned i = 0; i < n_threads; i++) {
            if (m.states[i] == AtBlock) {
                m.states[i] = Ready;
                n_waiting++;
            }
        }
        if (n_waiting == 0) return;
    }
}

} // namespace

const unsigned char *exchange(const void *mine, size_t size) {
    Machine &m = *machine;
    const unsigned i = m.current;
    unsigned char *slots = m.slots[i / WARP].bytes[m.fibers[i].turn];
    m.fibers[i].turn ^= 1;
    if (size > 0) std::memcpy(slots + i % WARP * SLOT, mine, size);
    pause(AtWarp);
    return slots;
}

void block_barrier() { pause(AtBlock); }

void add_kernel(const char *name, void *kernel, Call call) { kernels().push_back({name, kernel, call}); }

} // namespace emu

// A name from each file of kernels, so that all of them are linked.
#include "kernel_files.h"

// Runs a kernel to its end: 0, 1 for a name that is not known, 2 for a block that no GPU would run.
extern "C" int longtake_emulation_launch(const char *name, const unsigned *grid, const unsigned *block, void **args) {
    using namespace emu;
    const unsigned n_threads = block[0] * block[1] * block[2];
    if (n_threads == 0 || n_threads > MAX_THREADS || grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return 2;
    if (grid[1] > 65535 || grid[2] > 65535) return 2;
    static thread_local std::unique_ptr<Machine> own;
    if (!own) own = std::make_unique<Machine>();
    Machine &m = *own;
    machine = &m;
    m.kernel = nullptr;
    for (const Kernel &kernel : kernels()) {
        if (std::strcmp(kernel.name, name) == 0) m.kernel = &kernel;
    }
    if (m.kernel == nullptr) return 1;
    m.args = args;
    here.block_dim = {block[0], block[1], block[2]};
    here.grid_dim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                here.block = {x, y, z};
                run_block(m, n_threads);
            }
        }
    }
    return 0;
}
