// Products of small matrices by the tensor cores of a warp: D += A · B with A [16, 16], B [16, 8], D [16, 8],
// operands in bfloat16, sums in fp32. Which thread holds which numbers is given by PTX's "mma.m16n8k16": with
// group = lane / 4 and pair = 2 · (lane % 4),
//   A: a[0] (group, pair), a[1] (group + 8, pair), a[2] (group, pair + 8), a[3] (group + 8, pair + 8), two neighbours each;
//   B: b[0] (pair, group), b[1] (pair + 8, group), two below each other;
//   D: d[0], d[1] (group, pair), (group, pair + 1); d[2], d[3] the same eight rows below.
#pragma once
#include "common.cuh"

constexpr unsigned WARP = 0xffffffffu;

__device__ inline unsigned lane() { return threadIdx.x % 32; }

// Copies sixteen or four bytes from global to shared memory while the threads compute (cp.async): the bytes pass
// through no register. Where `there` is false zeros are written, so that tiles at the end of a sequence need no
// branch when they are multiplied.
template <int BYTES> __device__ inline void copy_ahead(void *to, const void *from, bool there) {
// The emulator has no inline assembly: its branch does the same with plain loops, so that the layout of operands
// is tested without a GPU.
#ifdef __CUDA_ARCH__
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    // With a source size of 0 cp.async reads nothing and fills the target with zeros. `.cg`
    // bypasses L1, where a tile would never be read again, but exists for sixteen bytes only; hence
    // `.ca` for four.
    const int bytes = there ? BYTES : 0;
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes));
    }
#else
    if (there) memcpy(to, from, BYTES);
    else memset(to, 0, BYTES);
#endif
}

// Ends a group of copies that are waited for together.
// The emulator copies at once: there it has nothing to end or to wait for.
__device__ inline void end_copies() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.commit_group;");
#endif
}

// Waits for this thread's copies, except for the last LAST groups. A barrier must follow before other threads
// read them.
template <int LAST> __device__ inline void await_copies() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.wait_group %0;" ::"n"(LAST));
#endif
}

// Four matrices of 8 × 8 from shared memory (ldmatrix): this thread's two consecutive numbers of each, or, transposed,
// two below each other. `at` is the first number of the row whose address this thread gives: eight threads a matrix.
// One instruction instead of eight loads, and it transposes on the way, which registers could do only by shuffles.
__device__ inline void load_four(unsigned (&out)[4], const bf16 *at, bool transposed) {
#ifdef __CUDA_ARCH__
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(at));
    if (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
    }
#else
    for (int matrix = 0; matrix < 4; matrix++) {
        for (int i = 0; i < 2; i++) {
            const unsigned pair = 2 * (lane() % 4) + i, group = lane() / 4;
            const unsigned row = 8 * matrix + (transposed ? pair : group), column = transposed ? group : pair;
            // Each row's address is with the lane of that number, as ldmatrix takes it: hence the
            // shuffle.
            const bf16 *line = reinterpret_cast<const bf16 *>(
                __shfl_sync(WARP, reinterpret_cast<unsigned long long>(at), row));
            reinterpret_cast<bf16 *>(&out[matrix])[i] = line[column];
        }
    }
#endif
}

// A's part of this thread, of rows that lie `stride` apart. Strides are a row of the tile plus eight numbers: with
// the padding, the eight rows of a matrix lie in different banks and are read without conflicts.
__device__ inline void load_rows(unsigned (&a)[4], const bf16 *tile, int stride) {
    load_four(a, tile + lane() % 16 * stride + lane() / 16 * 8, false);
}

// B's parts of this thread for two adjacent products, where B's columns are rows in memory: keys, as in q · kᵀ.
__device__ inline void load_columns(unsigned (&b)[2][2], const bf16 *tile, int stride) {
    unsigned four[4];
    load_four(four, tile + (lane() % 8 + lane() / 16 * 8) * stride + lane() / 8 % 2 * 8, false);
    b[0][0] = four[0], b[0][1] = four[1], b[1][0] = four[2], b[1][1] = four[3];
}

// The same, where B's rows are rows in memory: values, as in p · v.
__device__ inline void load_transposed(unsigned (&b)[2][2], const bf16 *tile, int stride) {
    unsigned four[4];
    load_four(four, tile + lane() % 16 * stride + lane() / 16 * 8, true);
    b[0][0] = four[0], b[0][1] = four[1], b[1][0] = four[2], b[1][1] = four[3];
}

#ifndef __CUDA_ARCH__
// One of the two numbers of a register.
inline float part(unsigned bits, int which) {
    bf16 pair[2];
    memcpy(pair, &bits, 4);
    return __bfloat162float(pair[which]);
}
#endif

// D += A · B.
__device__ inline void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDA_ARCH__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // The same sums, each number fetched from the thread that holds it.
    for (unsigned quarter = 0; quarter < 4; quarter++) {
        // The four lanes of a group hold the inner indices 2 · quarter and the next, and the same
        // plus 8.
        const unsigned row = lane() / 4 * 4 + quarter;
        unsigned own[4];
        for (int i = 0; i < 4; i++) own[i] = __shfl_sync(WARP, a[i], row);
        for (int column = 0; column < 2; column++) {
            // Column n of B is held by the lanes 4n to 4n + 3.
            const unsigned from = (2 * (lane() % 4) + column) * 4 + quarter;
            for (int half = 0; half < 2; half++) {
                const unsigned other = __shfl_sync(WARP, b[half], from);
                for (int i = 0; i < 2; i++) {
                    d[column] += part(own[2 * half], i) * part(other, i);
                    d[2 + column] += part(own[2 * half + 1], i) * part(other, i);
                }
            }
        }
    }
#endif
}

// The maximum and the sum over the four threads that share a row of D.
// They are the lanes 4g to 4g + 3: two steps of the butterfly do not leave the group.
__device__ inline float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(WARP, value, 1));
    return fmaxf(value, __shfl_xor_sync(WARP, value, 2));
}

__device__ inline float row_sum(float value) {
    value += __shfl_xor_sync(WARP, value, 1);
    return value + __shfl_xor_sync(WARP, value, 2);
}
