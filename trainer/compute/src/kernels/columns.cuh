// Sums of columns over all rows, to the same bits for the same numbers: every block sums some rows of 64 columns,
// and the block of those columns that finishes last adds the blocks' sums, in the order of the blocks.
//
// The counter of finished blocks is an integer atomic: which block is last may differ from run to run, but not
// what it adds. A second launch would do the same, but costs some microseconds for each of the many weights.
#pragma once

#include "rows.cuh"

// Memory that blocks of one launch share, zero at first. Launches of one stream run one after the other, so all
// launches of a kernel may use the same.
#ifdef __CUDACC__
#define BETWEEN_BLOCKS(type, name, count) static __device__ type name[count]
#else
#define BETWEEN_BLOCKS(type, name, count) static thread_local EmulatedMemory<type, count> name
#endif

// The host's `column_sum_blocks` aims at 512 blocks: rounded up to whole parts they stay below
// MOST_BLOCKS wherever there is more than one part.
enum : unsigned { COLUMNS = 64, MOST_BLOCKS = 1024 };

// `row(r, column, count, out)` adds to `out[sum][k]`; `target[sum]` is what is added to. The grid is (blocks of
// columns, parts of the rows), of 256 threads: eight threads share the 64 columns of a row, an octet each, and
// 32 rows are read at a time.
template <unsigned SUMS, typename Row>
__device__ __forceinline__ void sum_columns(unsigned rows, unsigned width, float* const* target, Row row) {
    BETWEEN_BLOCKS(float, partial, MOST_BLOCKS * SUMS * COLUMNS);
    BETWEEN_BLOCKS(unsigned, done, MOST_BLOCKS);
    __shared__ float sums[32][COLUMNS];
    __shared__ bool last;
    unsigned first = blockIdx.x * COLUMNS, parts = gridDim.y;
    unsigned column = first + threadIdx.x % 8 * OCTET, line = threadIdx.x / 8;
    // After inlining and unrolling all indices are constants, so that the sums stay in registers.
    float own[SUMS][OCTET] = {};
    if (column < width) {
        unsigned count = width - column < OCTET ? width - column : OCTET;
        // Rows are interleaved among the parts: which rows a thread adds, and in which order,
        // follows from the shape and the grid alone.
        unsigned step = 32 * parts;
        for (size_t r = blockIdx.y * 32 + line; r < rows; r += step) row(r, column, count, own);
    }
    size_t block = (size_t)blockIdx.x * parts + blockIdx.y;
    for (unsigned s = 0; s < SUMS; s++) {
        // The 32 partial sums of a column lie in 32 rows of shared memory; they are added by the thread of that
        // column, and neighbouring threads read neighbouring banks. First the previous sum must have been read.
        __syncthreads();
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) sums[line][threadIdx.x % 8 * OCTET + k] = own[s][k];
        __syncthreads();
        if (threadIdx.x < COLUMNS && first + threadIdx.x < width) {
            float sum = 0.0f;
            for (unsigned l = 0; l < 32; l++) sum += sums[l][threadIdx.x];
            // Few rows are one part, whose sums need no other block's.
            if (parts == 1) {
                target[s][first + threadIdx.x] += sum;
            } else {
                partial[(block * SUMS + s) * COLUMNS + threadIdx.x] = sum;
            }
        }
    }
    if (parts == 1) return;
    // The block's sums must be visible to all blocks before it counts as finished.
    __threadfence();
    __syncthreads();
    // A fence orders only its own thread's writes: the barrier ensures that every thread has passed
    // its fence before one of them counts the block.
    if (threadIdx.x == 0) last = atomicAdd(&done[blockIdx.x], 1u) == parts - 1;
    __syncthreads();
    if (!last) return;
    // And the others' sums must not be read before the count was; the count is reset for the next launch.
    __threadfence();
    if (threadIdx.x == 0) done[blockIdx.x] = 0;
    // At most two sums of 64 columns: half of the threads are enough, one for each result.
    if (threadIdx.x >= SUMS * COLUMNS) return;
    unsigned s = threadIdx.x / COLUMNS, c = threadIdx.x % COLUMNS;
    if (first + c >= width) return;
    // Volatile: read from the L2 cache, which other blocks wrote to, and not from this multiprocessor's L1.
    const volatile float* found = partial;
    float sum = 0.0f;
    for (unsigned part = 0; part < parts; part++)
        sum += found[(((size_t)blockIdx.x * parts + part) * SUMS + s) * COLUMNS + c];
    // Only the last block of these columns gets here: the addition has no competitor.
    target[s][first + c] += sum;
}
