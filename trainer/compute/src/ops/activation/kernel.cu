// The activation functions of the feed-forward layers: eight numbers a thread. Bound by memory rather than
// arithmetic, so that the exact error function is affordable.
#include "common.cuh"

// Where the exponential overflows to infinity the quotient is 0, which is the limit: no clamp is
// needed.
__device__ __forceinline__ float gate(float x) { return 1.0f / (1.0f + expf(-1.702f * x)); }
// The exact form, PyTorch's default for GELU, and not its tanh approximation; the factor is 1/√2.
__device__ __forceinline__ float cumulative(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }

// Types rather than function pointers, so that value and slope are inlined into the loops.
struct QuickGelu {
    static __device__ __forceinline__ float value(float x) { return x * gate(x); }
    static __device__ __forceinline__ float slope(float x) {
        float g = gate(x);
        return g + 1.702f * x * g * (1.0f - g);
    }
};

struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * cumulative(x); }
    static __device__ __forceinline__ float slope(float x) {
        // 0.39894228 is 1/√(2π): the second term is x times the density of the normal distribution.
        return cumulative(x) + x * 0.39894228f * expf(-0.5f * x * x);
    }
};

template <typename F, typename T>
__device__ __forceinline__ void bend(const T* x, T* y, u64 count) {
    for_octets(
        count, aligned(x) && aligned(y),
        [&](size_t i) {
            float v[OCTET];
            load8(x + i, v);
#pragma unroll
            for (unsigned k = 0; k < OCTET; k++) v[k] = F::value(v[k]);
            store8(y + i, v);
        },
        [&](size_t i) { store(y + i, F::value(load(x + i))); });
}

// In place: `dy` becomes `dx`, since nothing reads the gradient of an activation after it.
template <typename F, typename T>
__device__ __forceinline__ void bend_back(const T* x, T* dy, u64 count) {
    for_octets(
        count, aligned(x) && aligned(dy),
        [&](size_t i) {
            float v[OCTET], d[OCTET];
            load8(x + i, v);
            load8(dy + i, d);
#pragma unroll
            for (unsigned k = 0; k < OCTET; k++) d[k] *= F::slope(v[k]);
            store8(dy + i, d);
        },
        [&](size_t i) { store(dy + i, load(dy + i) * F::slope(load(x + i))); });
}

template <typename T> static __device__ void quick_gelu_forward(const T* x, T* y, u64 count) {
    bend<QuickGelu>(x, y, count);
}
template <typename T> static __device__ void quick_gelu_backward(const T* x, T* dy, u64 count) {
    bend_back<QuickGelu>(x, dy, count);
}
template <typename T> static __device__ void gelu_forward(const T* x, T* y, u64 count) {
    bend<Gelu>(x, y, count);
}
template <typename T> static __device__ void gelu_backward(const T* x, T* dy, u64 count) {
    bend_back<Gelu>(x, dy, count);
}

EXPORT(quick_gelu_forward, (const T* x, T* y, u64 count), (x, y, count))
EXPORT(quick_gelu_backward, (const T* x, T* dy, u64 count), (x, dy, count))
EXPORT(gelu_forward, (const T* x, T* y, u64 count), (x, y, count))
EXPORT(gelu_backward, (const T* x, T* dy, u64 count), (x, dy, count))
