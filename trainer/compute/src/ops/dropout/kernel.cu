// Dropout with masks that are made again: eight numbers a thread, blocks of 2048 numbers of one sample.
#include "rows.cuh"

template <bool ADD, typename T>
__device__ __forceinline__ void dropout(const T* x, T* y, unsigned width, Sequence s, Mask mask) {
    unsigned count = s.rows * width;
    unsigned i = (blockIdx.y * blockDim.x + threadIdx.x) * OCTET;
    if (i >= count) return;
    x += s.row * width + i, y += s.row * width + i;
    bool well = lie_well(count, x, y);
    unsigned rest = count - i < OCTET ? count - i : OCTET;
    float v[OCTET], other[OCTET] = {};
    load_some(x, well, rest, v);
    if (ADD) load_some(y, well, rest, other);
#pragma unroll
    for (unsigned k = 0; k < OCTET; k++) {
        float kept = mask.dropped_below ? mask.of(i + k) : 1.0f;
        v[k] = ADD ? other[k] * kept + v[k] : v[k] * kept;
    }
    store_some(y, well, rest, v);
}

template <typename T>
static __device__ void dropout_add(const T* x, T* y, unsigned width, Sequence s, Mask mask) {
    dropout<true>(x, y, width, s, mask);
}

template <typename T>
static __device__ void dropout_apply(const T* x, T* y, unsigned width, Sequence s, Mask mask) {
    dropout<false>(x, y, width, s, mask);
}

EXPORT(dropout_add,
       (const T* x, T* y, unsigned width, const unsigned* offsets, unsigned length, unsigned first, u64 key,
        u64 first_sample, unsigned dropped_below, float scale),
       (x, y, width, sequence_of(offsets, length, first, blockIdx.x),
        mask_of(key, first_sample, dropped_below, scale, blockIdx.x)))
EXPORT(dropout_apply,
       (const T* x, T* y, unsigned width, const unsigned* offsets, unsigned length, unsigned first, u64 key,
        u64 first_sample, unsigned dropped_below, float scale),
       (x, y, width, sequence_of(offsets, length, first, blockIdx.x),
        mask_of(key, first_sample, dropped_below, scale, blockIdx.x)))
