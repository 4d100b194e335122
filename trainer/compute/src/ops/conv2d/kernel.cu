// Neighbourhoods of 3 × 3 laid out as rows, in the order of a weight's numbers: channel, then tap.
#include "common.cuh"

enum : unsigned { TAPS = 9, UNFOLD_BLOCK = 256 };

// A thread reads the neighbours of one place in one channel; channels are neighbours in `x`. What the
// block found lies in one piece in `rows`, and is written in its order.
template <typename T>
static __device__ void conv2d_unfold(const T* x, T* rows, unsigned first, unsigned count,
                                     unsigned side, unsigned channels, unsigned stride) {
    __shared__ T found[UNFOLD_BLOCK * TAPS];
    size_t start = (size_t)blockIdx.x * UNFOLD_BLOCK, all = (size_t)count * channels;
    size_t at = start + threadIdx.x;
    if (at < all) {
        unsigned line = (side + stride - 1) / stride;
        unsigned place = first + (unsigned)(at / channels), channel = (unsigned)(at % channels);
        unsigned left = place % line * stride, top = place / line % line * stride;
        const T* picture = x + (size_t)(place / line / line) * side * side * channels + channel;
#pragma unroll
        for (unsigned tap = 0; tap < TAPS; tap++) {
            // Before the first pixel the difference wraps, and is too large.
            unsigned row = top + tap / 3 - 1, column = left + tap % 3 - 1;
            bool inside = row < side && column < side;
            size_t from = ((size_t)row * side + column) * channels;
            T value;
            store(&value, inside ? load(picture + from) : 0.0f);
            found[threadIdx.x * TAPS + tap] = value;
        }
    }
    __syncthreads();
    size_t left_over = (all - start) * TAPS;
    unsigned end = left_over < UNFOLD_BLOCK * TAPS ? (unsigned)left_over : UNFOLD_BLOCK * TAPS;
    for (unsigned i = threadIdx.x; i < end; i += UNFOLD_BLOCK) rows[start * TAPS + i] = found[i];
}

EXPORT(conv2d_unfold,
       (const T* x, T* rows, unsigned first, unsigned count, unsigned side, unsigned channels,
        unsigned stride),
       (x, rows, first, count, side, channels, stride))

// [outputs, inputs, taps] to [inputs, outputs, taps backwards].
template <typename T>
static __device__ void conv2d_turn(const float* weight, T* turned, unsigned outputs,
                                   unsigned inputs) {
    size_t at = thread_index();
    if (at >= (size_t)outputs * inputs * TAPS) return;
    size_t tap = at % TAPS, output = at / TAPS % outputs, input = at / TAPS / outputs;
    store(turned + at, weight[(output * inputs + input) * TAPS + TAPS - 1 - tap]);
}

EXPORT(conv2d_turn, (const float* weight, T* turned, unsigned outputs, unsigned inputs),
       (weight, turned, outputs, inputs))
