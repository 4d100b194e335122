// The rows of first tokens: a block for each sequence.
#include "rows.cuh"

template <typename T> static __device__ void take(const T* all, T* kept, unsigned width, Sequence s) {
    copy_row(all + s.token * width, kept + s.row * width, width);
}

// Other tokens' rows are not written: the host has set them to zero before.
template <typename T> static __device__ void spread(const T* kept, T* all, unsigned width, Sequence s) {
    copy_row(kept + s.row * width, all + s.token * width, width);
}

EXPORT(take,
       (const T* all, T* kept, unsigned width, const unsigned* offsets, unsigned length, unsigned first),
       (all, kept, width, sequence_of(offsets, length, first, blockIdx.x)))
EXPORT(spread,
       (const T* kept, T* all, unsigned width, const unsigned* offsets, unsigned length, unsigned first),
       (kept, all, width, sequence_of(offsets, length, first, blockIdx.x)))
