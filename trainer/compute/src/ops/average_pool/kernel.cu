// The mean of each 2 × 2 square of channels-last images. Neighbouring threads have neighbouring channels, so that
// the accesses of a warp are coalesced.
#include "common.cuh"

// Shapes: x [images, side, side, channels]; y [images, side / 2, side / 2, channels]; `count` numbers are written.
// A thread computes one number of `y`.
template <typename T>
static __device__ void pool_forward(const T* x, T* y, u64 count, unsigned side,
                                    unsigned channels) {
    size_t at = thread_index();
    if (at >= count) return;
    unsigned half = side / 2, channel = (unsigned)(at % channels);
    // `line` counts the lines of all images: each has exactly half as many as its input.
    size_t place = at / channels, column = place % half, line = place / half;
    size_t upper = (line * 2 * side + column * 2) * channels + channel;
    size_t lower = upper + (size_t)side * channels;
    // In the order of the CPU, so that both round alike.
    float pairs = (load(x + upper) + load(x + upper + channels)) +
                  (load(x + lower) + load(x + lower + channels));
    store(y + at, 0.25f * pairs);
}

EXPORT(pool_forward, (const T* x, T* y, u64 count, unsigned side, unsigned channels),
       (x, y, count, side, channels))

// A thread computes one number of `dx`: a gather, so that no two threads write to one number.
template <typename T>
static __device__ void pool_backward(const T* dy, T* dx, u64 count, unsigned side,
                                     unsigned channels, unsigned add) {
    size_t at = thread_index();
    if (at >= count) return;
    unsigned half = side / 2, channel = (unsigned)(at % channels);
    size_t place = at / channels, column = place % side, line = place / side;
    float part = 0.25f * load(dy + (line / 2 * half + column / 2) * channels + channel);
    // `dx` is read only where it is added to: otherwise it may hold numbers of an earlier step.
    store(dx + at, add ? load(dx + at) + part : part);
}

EXPORT(pool_backward,
       (const T* dy, T* dx, u64 count, unsigned side, unsigned channels, unsigned add),
       (dy, dx, count, side, channels, add))
