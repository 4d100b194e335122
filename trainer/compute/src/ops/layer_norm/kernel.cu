// Layer normalization: a warp for each row, eight rows a block. A warp needs no barrier: its sums are shuffles.
#include "columns.cuh"

__device__ __forceinline__ size_t row_of_warp() {
    return (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
}

// Shapes: x, y [rows, width]; scale [2, width], weight and bias; moments [rows, 2], mean and 1 / deviation.
template <typename T>
static __device__ void layer_norm_forward(const float* scale, const T* x, T* y, float* moments,
                                          unsigned rows, unsigned width, float epsilon) {
    size_t row = row_of_warp();
    if (row >= rows) return;
    unsigned lane = threadIdx.x % 32;
    const float* bias = scale + width;
    // Before the row's offset is added: if the width is a multiple of eight, all rows of an aligned
    // array are aligned.
    bool well = lie_well(width, x, y), well_scaled = lie_well(width, scale, bias);
    x += row * width, y += row * width;
    // Mean and variance in two passes over the row, the second from the cache: the mean of the squares less the square
    // of the mean would cancel digits where the mean is large.
    float sum = 0.0f, squares = 0.0f;
    walk_row(width, lane, 32, [&](unsigned c, unsigned count) {
        float v[OCTET];
        load_some(x + c, well, count, v);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) sum += v[k];
    });
    float mean = warp_sum(sum) / (float)width;
    walk_row(width, lane, 32, [&](unsigned c, unsigned count) {
        float v[OCTET];
        load_some(x + c, well, count, v);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++)
            // The zeros behind the last number are not of the row: they would add mean².
            squares += k < count ? (v[k] - mean) * (v[k] - mean) : 0.0f;
    });
    // The biased variance, as PyTorch's LayerNorm takes it.
    float inverse = 1.0f / sqrtf(warp_sum(squares) / (float)width + epsilon);
    // Kept in fp32 for the backward, which would otherwise need two more sums of each row.
    if (lane == 0) moments[2 * row] = mean, moments[2 * row + 1] = inverse;
    walk_row(width, lane, 32, [&](unsigned c, unsigned count) {
        float v[OCTET], w[OCTET], b[OCTET];
        load_some(x + c, well, count, v);
        load_some(scale + c, well_scaled, count, w);
        load_some(bias + c, well_scaled, count, b);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) v[k] = (v[k] - mean) * inverse * w[k] + b[k];
        store_some(y + c, well, count, v);
    });
}

EXPORT(layer_norm_forward,
       (const float* scale, const T* x, T* y, float* moments, unsigned rows, unsigned width, float epsilon),
       (scale, x, y, moments, rows, width, epsilon))

// Shapes: x, dy, dx [rows, width]; scale [2, width]; moments [rows, 2]. Writes dx, or adds to it for a residual.
template <typename T>
static __device__ void layer_norm_backward(const float* scale, const T* x, const float* moments, const T* dy,
                                           T* dx, unsigned rows, unsigned width, unsigned add) {
    size_t row = row_of_warp();
    if (row >= rows) return;
    unsigned lane = threadIdx.x % 32;
    bool well = lie_well(width, x, dy, dx), well_scaled = lie_well(width, scale);
    x += row * width, dy += row * width, dx += row * width;
    float mean = moments[2 * row], inverse = moments[2 * row + 1];
    // Mean and deviation depend on every number of the row: what the gradient has in common with the constant row
    // (`along`) and with the normalized row (`across`) is taken off.
    float along = 0.0f, across = 0.0f;
    walk_row(width, lane, 32, [&](unsigned c, unsigned count) {
        float v[OCTET], d[OCTET], w[OCTET];
        load_some(x + c, well, count, v);
        load_some(dy + c, well, count, d);
        load_some(scale + c, well_scaled, count, w);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) {
            along += d[k] * w[k];
            across += d[k] * w[k] * (v[k] - mean);
        }
    });
    along = warp_sum(along) / (float)width;
    across = warp_sum(across) * inverse / (float)width;
    walk_row(width, lane, 32, [&](unsigned c, unsigned count) {
        float v[OCTET], d[OCTET], w[OCTET], old[OCTET] = {};
        load_some(x + c, well, count, v);
        load_some(dy + c, well, count, d);
        load_some(scale + c, well_scaled, count, w);
        if (add) load_some(dx + c, well, count, old);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) {
            float unit = (v[k] - mean) * inverse;
            v[k] = old[k] + inverse * (d[k] * w[k] - along - unit * across);
        }
        store_some(dx + c, well, count, v);
    });
}

EXPORT(layer_norm_backward,
       (const float* scale, const T* x, const float* moments, const T* dy, T* dx, unsigned rows, unsigned width,
        unsigned add),
       (scale, x, moments, dy, dx, rows, width, add))

// The gradients of weight and bias: two sums over the rows of each column, in one pass.
template <typename T>
static __device__ void layer_norm_weights(const T* x, const float* moments, const T* dy, float* gradients,
                                          unsigned rows, unsigned width) {
    bool well = lie_well(width, x, dy);
    float* target[2] = {gradients, gradients + width};
    sum_columns<2>(rows, width, target, [&](size_t r, unsigned c, unsigned count, float(*out)[OCTET]) {
        float v[OCTET], d[OCTET], mean = moments[2 * r], inverse = moments[2 * r + 1];
        load_some(x + r * width + c, well, count, v);
        load_some(dy + r * width + c, well, count, d);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) {
            out[0][k] += d[k] * (v[k] - mean) * inverse;
            out[1][k] += d[k];
        }
    });
}

EXPORT(layer_norm_weights,
       (const T* x, const float* moments, const T* dy, float* gradients, unsigned rows, unsigned width),
       (x, moments, dy, gradients, rows, width))
