// Runs the blocks of a launch one after the other, and the threads of a block as fibers.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "device.h"

thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;
extern const Kernel *const ALL_KERNELS[];

#if defined(__x86_64__)
typedef void *Place;
extern "C" void emulated_switch(void **from, void *to);
asm(R"(
.text
.globl emulated_switch
.type emulated_switch,@function
emulated_switch:
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
.size emulated_switch,.-emulated_switch
)");
#else
typedef ucontext_t Place;
#endif

namespace {
const size_t STACK = 64 << 10;
enum class State { Runs, AtBarrier, AtExchange, Left };

struct Fiber {
    char *stack = nullptr;
    Place place;
    State state;
    unsigned turn;  // exchanges that it took part in
};

struct Block {
    std::vector<Fiber> fibers;
    Place scheduler;
    const Kernel *kernel;
    const uint64_t *given;
    unsigned threads, current, at_barrier;
    bool said, all_said;
    uint64_t lanes[32][2][32];
    unsigned arrived[32];
};
thread_local Block block;

void pass(Place &from, Place &to) {
#if defined(__x86_64__)
    emulated_switch(&from, to);
#else
    swapcontext(&from, &to);
#endif
}

void wait(State state) {
    Fiber &own = block.fibers[block.current];
    own.state = state;
    pass(own.place, block.scheduler);
}

void body() {
    block.kernel->call(block.given);
    wait(State::Left);
    abort();
}

void begin(Fiber &fiber) {
    if (!fiber.stack) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        fiber.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (fiber.stack == MAP_FAILED) abort();
    }
    fiber.state = State::Runs;
    fiber.turn = 0;
#if defined(__x86_64__)
    void **top = (void **)(fiber.stack + STACK) - 1;
    *--top = (void *)body;
    fiber.place = top - 6;
#else
    getcontext(&fiber.place);
    fiber.place.uc_stack.ss_sp = fiber.stack;
    fiber.place.uc_stack.ss_size = STACK;
    makecontext(&fiber.place, body, 0);
#endif
}

unsigned lanes_of(unsigned warp) {
    unsigned rest = block.threads - warp * 32;
    return rest < 32 ? rest : 32;
}

// Lets those go on for whom nobody is missing.
void release() {
    if (block.at_barrier == block.threads) {
        block.all_said = block.said;
        block.said = false;
        block.at_barrier = 0;
        for (unsigned i = 0; i < block.threads; i++) block.fibers[i].state = State::Runs;
    }
    for (unsigned warp = 0; warp * 32 < block.threads; warp++) {
        if (block.arrived[warp] != lanes_of(warp)) continue;
        block.arrived[warp] = 0;
        for (unsigned lane = 0; lane < lanes_of(warp); lane++)
            block.fibers[warp * 32 + lane].state = State::Runs;
    }
}

// Whether all threads came to their end.
bool run_block() {
    block.at_barrier = 0;
    block.said = false;
    memset(block.arrived, 0, sizeof(block.arrived));
    for (unsigned i = 0; i < block.threads; i++) begin(block.fibers[i]);
    for (;;) {
        bool any = false, all_left = true;
        for (unsigned i = 0; i < block.threads; i++) {
            Fiber &fiber = block.fibers[i];
            if (fiber.state == State::Runs) {
                any = true;
                block.current = i;
                threadIdx = {i, 0, 0};
                pass(block.scheduler, fiber.place);
            }
            all_left &= fiber.state == State::Left;
        }
        if (all_left) return true;
        if (!any) return false;
        release();
    }
}

const Kernel *find(const char *name) {
    for (const Kernel *const *table = ALL_KERNELS; *table; table++)
        for (const Kernel *kernel = *table; kernel->name; kernel++)
            if (!strcmp(kernel->name, name)) return kernel;
    return nullptr;
}
}  // namespace

bool emulated_barrier(bool said) {
    block.said |= said;
    block.at_barrier++;
    wait(State::AtBarrier);
    return block.all_said;
}

const uint64_t *emulated_exchange(uint64_t said) {
    unsigned own = block.current, warp = own / 32;
    uint64_t *lanes = block.lanes[warp][block.fibers[own].turn++ % 2];
    if (block.arrived[warp] == 0) memset(lanes, 0, sizeof(block.lanes[warp][0]));
    lanes[own % 32] = said;
    block.arrived[warp]++;
    wait(State::AtExchange);
    return lanes;
}

// Runs a kernel; what is wrong, or nothing.
extern "C" int emulator_launch(const char *name, const unsigned *grid, unsigned threads, const char *kinds,
                               const uint64_t *given, char *wrong, size_t room) {
    const Kernel *kernel = find(name);
    if (!kernel) return snprintf(wrong, room, "there is no such kernel");
    if (strcmp(kernel->kinds, kinds))
        return snprintf(wrong, room, "it takes (%s) and is given (%s)", kernel->kinds, kinds);
    if (threads == 0 || threads > 1024 || threads % 32 || grid[1] > 65535 || grid[2] > 65535)
        return snprintf(wrong, room, "no card runs such a grid");
    if (block.fibers.size() < threads) block.fibers.resize(threads);
    block.kernel = kernel;
    block.given = given;
    block.threads = threads;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                if (!run_block())
                    return snprintf(wrong, room, "threads of block (%u, %u, %u) wait for others that left", x, y, z);
            }
    return 0;
}
