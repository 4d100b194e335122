// im2col for convolutions of 3 × 3: windows laid out as rows, in the order of a weight's numbers, channel and then tap,
// so that the weight is a matrix as it is stored.
#include "common.cuh"

enum : unsigned { TAPS = 9, UNFOLD_BLOCK = 256 };

// Shapes: x [images, side, side, channels]; rows [count, channels, 9], from output pixel `first` on.
// A thread reads the window of one output pixel in one channel. Threads of neighbouring channels read neighbouring
// addresses, but would write nine numbers apart: the block collects its rows in shared memory, where they are one
// contiguous piece, and writes that in order. Nine is odd, so fp32 stores to shared memory have no bank conflicts.
template <typename T>
static __device__ void conv2d_unfold(const T* x, T* rows, unsigned first, unsigned count,
                                     unsigned side, unsigned channels, unsigned stride) {
    __shared__ T found[UNFOLD_BLOCK * TAPS];
    size_t start = (size_t)blockIdx.x * UNFOLD_BLOCK, all = (size_t)count * channels;
    size_t at = start + threadIdx.x;
    // No early return: all threads take part in writing the rows, behind the barrier.
    if (at < all) {
        unsigned line = (side + stride - 1) / stride;
        unsigned place = first + (unsigned)(at / channels), channel = (unsigned)(at % channels);
        unsigned left = place % line * stride, top = place / line % line * stride;
        const T* picture = x + (size_t)(place / line / line) * side * side * channels + channel;
#pragma unroll
        for (unsigned tap = 0; tap < TAPS; tap++) {
            // Above or left of the image the unsigned difference wraps to a large number, which is outside too.
            unsigned row = top + tap / 3 - 1, column = left + tap % 3 - 1;
            bool inside = row < side && column < side;
            size_t from = ((size_t)row * side + column) * channels;
            T value;
            // In T and not in fp32: half of the shared memory in bfloat16, and what was T converts
            // back exactly.
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

// [outputs, inputs, taps] to [inputs, outputs, taps in reverse]: the weight of the convolution that computes `dx`.
template <typename T>
static __device__ void conv2d_turn(const float* weight, T* turned, unsigned outputs,
                                   unsigned inputs) {
    size_t at = thread_index();
    if (at >= (size_t)outputs * inputs * TAPS) return;
    size_t tap = at % TAPS, output = at / TAPS % outputs, input = at / TAPS / outputs;
    // Writes are coalesced and reads are strided: a weight is small and mostly in the L2 cache.
    store(turned + at, weight[(output * inputs + input) * TAPS + TAPS - 1 - tap]);
}

EXPORT(conv2d_turn, (const float* weight, T* turned, unsigned outputs, unsigned inputs),
       (weight, turned, outputs, inputs))
