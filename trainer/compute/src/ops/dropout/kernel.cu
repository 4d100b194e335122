// Dropout whose masks are hashes of (key, sample, element): nothing is stored for the backward. Grid: (samples, blocks
// of 2048 numbers of the longest sample), eight numbers a thread. A block has one sample, hence one key.
#include "rows.cuh"

// ADD: y = mask(y) + x, the end of a residual branch; otherwise y = mask(x).
template <bool ADD, typename T>
__device__ __forceinline__ void dropout(const T* x, T* y, unsigned width, Sequence s, Mask mask) {
    unsigned count = s.rows * width;
    unsigned i = (blockIdx.y * blockDim.x + threadIdx.x) * OCTET;
    if (i >= count) return;
    x += s.row * width + i, y += s.row * width + i;
    // After the offsets were added: what counts is the alignment of this thread's octet.
    bool well = lie_well(count, x, y);
    unsigned rest = count - i < OCTET ? count - i : OCTET;
    float v[OCTET], other[OCTET] = {};
    load_some(x, well, rest, v);
    if (ADD) load_some(y, well, rest, other);
#pragma unroll
    for (unsigned k = 0; k < OCTET; k++) {
        // Without dropout nothing is hashed, but the residual is still added.
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
