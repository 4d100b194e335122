// What kernels find in CUDA C++, on a processor: every thread of a block is a fiber, and a block's fibers
// take turns where they wait for each other.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __shared__ static thread_local
#define __forceinline__ inline

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

// Waits for all threads of the block; whether any of them said so.
bool emulated_barrier(bool said);
// Waits for all threads of the warp; what each of them said.
const uint64_t *emulated_exchange(uint64_t said);

inline void __syncthreads() { emulated_barrier(false); }
inline int __syncthreads_or(int said) { return emulated_barrier(said != 0); }
inline void __threadfence() {}

template <class V> inline V emulated_lane(V value, unsigned lane) {
    static_assert(sizeof(V) <= 8, "eight bytes at most");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(V));
    const uint64_t *all = emulated_exchange(bits);
    if (lane < 32) memcpy(&value, &all[lane], sizeof(V));
    return value;
}

inline unsigned emulated_own_lane() { return threadIdx.x % 32; }
template <class V> inline V __shfl_sync(unsigned, V value, int lane, int = 32) {
    return emulated_lane(value, (unsigned)lane % 32);
}
template <class V> inline V __shfl_xor_sync(unsigned, V value, int step, int = 32) {
    return emulated_lane(value, emulated_own_lane() ^ (unsigned)step);
}
inline unsigned __ballot_sync(unsigned, int said) {
    const uint64_t *all = emulated_exchange(said != 0);
    unsigned mask = 0;
    for (unsigned lane = 0; lane < 32; lane++) mask |= (unsigned)(all[lane] != 0) << lane;
    return mask;
}

// Threads take turns only where they wait, so nothing comes between.
template <class V> inline V emulated_replace(V *at, V value) {
    V old = *at;
    *at = value;
    return old;
}
inline float atomicAdd(float *at, float value) { return emulated_replace(at, *at + value); }
inline unsigned atomicAdd(unsigned *at, unsigned value) { return emulated_replace(at, *at + value); }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __expf(float value) { return expf(value); }
inline float __logf(float value) { return logf(value); }
template <class V> inline V min(V a, V b) { return b < a ? b : a; }

// Memory of the whole device: one for each thread that emulates one, which has little room of its own.
template <class V, size_t COUNT> class EmulatedMemory {
    V *at = (V *)calloc(COUNT, sizeof(V));

  public:
    ~EmulatedMemory() { free(at); }
    operator V *() { return at; }
};

// A kernel by name, and what it takes: pointers, wholes, longs and reals.
struct Kernel {
    const char *name;
    const char *kinds;
    void (*call)(const uint64_t *);
};

template <class P> constexpr char emulated_kind() {
    using V = std::remove_cv_t<P>;
    if (std::is_pointer_v<V>) return 'p';
    if (std::is_same_v<V, unsigned>) return 'w';
    if (std::is_same_v<V, unsigned long long>) return 'l';
    return std::is_same_v<V, float> ? 'r' : '?';
}

template <class P> inline P emulated_argument(uint64_t bits) {
    static_assert(emulated_kind<P>() != '?', "kernels take pointers, unsigned, unsigned long long, float");
    std::remove_cv_t<P> value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

template <auto F> struct Emulated;
template <class... P, void (*F)(P...)> struct Emulated<F> {
    static constexpr char KINDS[] = {emulated_kind<P>()..., 0};
    template <size_t... I> static void spread(const uint64_t *given, std::index_sequence<I...>) {
        F(emulated_argument<P>(given[I])...);
    }
    static void call(const uint64_t *given) { spread(given, std::index_sequence_for<P...>()); }
};

template <auto F> constexpr Kernel kernel(const char *name) {
    return {name, Emulated<F>::KINDS, &Emulated<F>::call};
}
