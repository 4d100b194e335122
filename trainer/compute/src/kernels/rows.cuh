// Rows along which a warp or a block walks, eight numbers a thread at a time: neighbouring threads read
// neighbouring sixteen bytes, so that a warp's access is coalesced into whole cache lines.
#pragma once

#include "common.cuh"

// Whether every octet of rows of this width is aligned to sixteen bytes, in all arrays: the first octet of each
// row must be as well, so the width counts too. Eight bfloat16 are sixteen bytes, eight fp32 twice that.
__device__ __forceinline__ bool lie_well(unsigned width, const void* a, const void* b = nullptr,
                                         const void* c = nullptr, const void* d = nullptr) {
    // Arrays that are not given are null, which counts as aligned.
    return width % OCTET == 0 && aligned(a) && aligned(b) && aligned(c) && aligned(d);
}

// Up to eight numbers; zeros beyond the end, so that loops over an octet have a fixed length and are unrolled
// into registers.
template <typename S>
__device__ __forceinline__ void load_some(const S* at, bool well, unsigned count, float* out) {
    if (well) return load8(at, out);
#pragma unroll
    for (unsigned k = 0; k < OCTET; k++) out[k] = k < count ? load(at + k) : 0.0f;
}

template <typename S>
__device__ __forceinline__ void store_some(S* at, bool well, unsigned count, const float* values) {
    if (well) return store8(at, values);
#pragma unroll
    for (unsigned k = 0; k < OCTET; k++)
        if (k < count) store(at + k, values[k]);
}

// Calls `each(column, count)` for the octets of a row that are this thread's, of `threads` that share it.
template <typename Each>
__device__ __forceinline__ void walk_row(unsigned width, unsigned thread, unsigned threads, Each each) {
    // A fixed stride: which numbers a thread adds depends on the width alone, and so does the order
    // of a row's sum.
    for (unsigned column = thread * OCTET; column < width; column += threads * OCTET)
        each(column, width - column < OCTET ? width - column : OCTET);
}

// Copies a row with all threads of a block.
template <typename T>
__device__ __forceinline__ void copy_row(const T* from, T* to, unsigned width) {
    // Through fp32 in registers, which holds every bfloat16 exactly: the copy changes no number.
    bool well = lie_well(width, from, to);
    walk_row(width, threadIdx.x, blockDim.x, [&](unsigned c, unsigned count) {
        float values[OCTET];
        load_some(from + c, well, count, values);
        store_some(to + c, well, count, values);
    });
}
