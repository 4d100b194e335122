// Features made unit vectors, which are fp32: a warp for each row.
#include "common.cuh"

template <typename T>
__device__ __forceinline__ float inverse_length(const T* x, unsigned width) {
    float squares = 0.0f;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) squares += load(x + c) * load(x + c);
    return 1.0f / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
}

template <typename T>
static __device__ void normalize_forward(const T* x, float* y, unsigned rows, unsigned width) {
    size_t row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * width, y += row * width;
    float scale = inverse_length(x, width);
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) y[c] = load(x + c) * scale;
}

template <typename T>
static __device__ void normalize_backward(const T* x, float* dy, unsigned rows, unsigned width) {
    size_t row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * width, dy += row * width;
    float scale = inverse_length(x, width), along = 0.0f;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) along += load(x + c) * dy[c];
    along = warp_sum(along) * scale * scale;
    for (unsigned c = threadIdx.x % 32; c < width; c += 32) dy[c] = (dy[c] - load(x + c) * along) * scale;
}

EXPORT(normalize_forward, (const T* x, float* y, unsigned rows, unsigned width), (x, y, rows, width))
EXPORT(normalize_backward, (const T* x, float* dy, unsigned rows, unsigned width), (x, dy, rows, width))
