// L2 normalization: a warp for each row, eight rows a block. Features are fp32, because the logits of the loss are their
// products times a scale of up to 100, which would multiply a rounding to bfloat16 as well.
#include "common.cuh"

__device__ __forceinline__ float inverse_length(const float* x, unsigned width) {
    float squares = 0.0f;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) squares += x[c] * x[c];
    // The epsilon of PyTorch's `normalize`: a row of zeros stays zero.
    return 1.0f / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
}

// Shapes: x, y [rows, width].
extern "C" __global__ void normalize_forward(const float* x, float* y, unsigned rows, unsigned width) {
    size_t row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * width, y += row * width;
    float scale = inverse_length(x, width);
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) y[c] = x[c] * scale;
}

template <typename T>
static __device__ void normalize_backward(const float* x, const float* dy, T* dx, unsigned rows,
                                          unsigned width) {
    size_t row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * width, dy += row * width, dx += row * width;
    // The part of `dy` along `x` changes only the length, which is normalized away: it is taken off.
    // The length is computed again: the row is read in any case, and nothing has to be kept.
    float scale = inverse_length(x, width), along = 0.0f;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) along += x[c] * dy[c];
    along = warp_sum(along) * scale * scale;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) store(dx + c, (dy[c] - x[c] * along) * scale);
}

EXPORT(normalize_backward, (const float* x, const float* dy, T* dx, unsigned rows, unsigned width),
       (x, dy, dx, rows, width))
