// What all kernels share. Conventions:
// - T is the number format of activations; weights, gradients and statistics are fp32, and so is arithmetic:
//   bfloat16 has eight significant bits, so a sum of some hundred bfloat16 numbers would stop growing.
// - A body is `template <typename T> static __device__ void name(...)`; EXPORT makes `name_f32` and
//   `name_bf16` of it. Kernels of one format are `extern "C" __global__ void name(...)`. The host finds
//   kernels by these names, which therefore are not mangled.
// - Sizes of an axis are `unsigned`, because 64-bit division is slow on a GPU; indices and counts of all numbers of
//   an array are 64 bits wide, because an array of activations may hold more than 2^32 of them.
// - Blocks have one dimension, a multiple of 32 threads: every warp is full, so shuffles may name all lanes.
// - No floating-point number is added by an atomic: those arrive in an order that the scheduler decides, and
//   a run could not be repeated to the same bits.
// - The emulator compiles the same code for the CPU with a shim in place of CUDA's headers.
#pragma once

#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;
typedef unsigned long long u64;

// The namespaces give both kernels their own `T`, which `parameters` and `arguments` refer to.
#define EXPORT(name, parameters, arguments)                                                        \
    namespace of_f32 {                                                                             \
    typedef float T;                                                                               \
    extern "C" __global__ void name##_f32 parameters { name<T> arguments; }                        \
    }                                                                                              \
    namespace of_bf16 {                                                                            \
    typedef bf16 T;                                                                                \
    extern "C" __global__ void name##_bf16 parameters { name<T> arguments; }                       \
    }

__device__ __forceinline__ float load(const float* at) { return *at; }
__device__ __forceinline__ float load(const bf16* at) { return __bfloat162float(*at); }
__device__ __forceinline__ void store(float* at, float value) { *at = value; }
// To nearest, ties to even, as `half::bf16::from_f32` of the host: both round to the same bits.
__device__ __forceinline__ void store(bf16* at, float value) { *at = __float2bfloat16_rn(value); }

// Eight consecutive numbers at once, where all addresses are multiples of sixteen bytes: a thread moves the
// widest access that the hardware has, and a warp whole cache lines.
enum : unsigned { OCTET = 8 };

// Buffers begin at multiples of 256 bytes, but a weight is a slice of a flat array and may begin at
// any number: alignment is checked in every launch.
__device__ __forceinline__ bool aligned(const void* at) { return ((size_t)at & 15) == 0; }

__device__ __forceinline__ void load8(const float* at, float* out) {
    float4 low = *(const float4*)at, high = *(const float4*)(at + 4);
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

__device__ __forceinline__ void load8(const bf16* at, float* out) {
    uint4 raw = *(const uint4*)at;
    unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // A bfloat16 is the upper half of an fp32: shifts instead of conversions, two numbers a word.
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ void store8(float* at, const float* values) {
    *(float4*)at = make_float4(values[0], values[1], values[2], values[3]);
    *(float4*)(at + 4) = make_float4(values[4], values[5], values[6], values[7]);
}

// The first number is the low half: memory is little-endian.
__device__ __forceinline__ unsigned two_bf16(float low, float high) {
    return (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(low)) |
           (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
}

__device__ __forceinline__ void store8(bf16* at, const float* values) {
    *(uint4*)at = make_uint4(two_bf16(values[0], values[1]), two_bf16(values[2], values[3]),
                             two_bf16(values[4], values[5]), two_bf16(values[6], values[7]));
}

// The sum and the maximum over the 32 threads of a warp, in every thread. The butterfly (xor) pairs lanes in
// one fixed tree, so that all lanes get the same bits.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

// The sum over a block of at most 1024 threads, in every thread. All threads must call it.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float sums[32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    // Before `sums` is written: a previous call of this function may still be reading it.
    __syncthreads();
    if (lane == 0) sums[warp] = value;
    __syncthreads();
    // Every warp adds the warps' sums itself, in the same tree: no second barrier to hand out the result.
    return warp_sum(lane < warps ? sums[lane] : 0.0f);
}

__device__ __forceinline__ size_t thread_index() {
    // Widened here: callers multiply it by the numbers of a thread, which may exceed 32 bits.
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

// Eight numbers a thread: `eight(i)` for whole octets of aligned arrays, `each(i)` for single numbers at the
// end, or everywhere if an array is a slice that is not aligned. All threads of a launch but those of the last
// octet take the same branch.
template <typename Eight, typename Each>
__device__ __forceinline__ void for_octets(u64 count, bool well, Eight eight, Each each) {
    size_t first = thread_index() * OCTET;
    if (well && first + OCTET <= count) {
        eight(first);
    } else {
        for (size_t i = first; i < first + OCTET && i < count; i++) each(i);
    }
}

// A sequence of a packed batch. Kernels get the offsets of all sequences, or null and the length that all
// have: images have no offsets in memory.
struct Sequence {
    size_t token;   // its first token
    unsigned tokens;
    size_t row;     // its first row in arrays of pooled tokens
    unsigned rows;  // its pooled tokens
};

__device__ __forceinline__ Sequence sequence_of(const unsigned* offsets, unsigned length,
                                                       unsigned first, unsigned index) {
    Sequence s;
    s.token = offsets ? offsets[index] : (size_t)index * length;
    s.tokens = offsets ? offsets[index + 1] - offsets[index] : length;
    // If only first tokens are pooled there is a row for each sequence; otherwise rows are tokens.
    s.row = first ? index : s.token;
    s.rows = first ? 1 : s.tokens;
    return s;
}

// The dropout masks of `ops/dropout` and the hashes of `random.rs`: the CPU and a device draw the same masks,
// so that a backward on either belongs to a forward on either, and no mask is ever stored.
__device__ __forceinline__ u64 mix(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

__device__ __forceinline__ u64 stream_of(u64 key, u64 index) { return mix(mix(key) ^ index); }

__device__ __forceinline__ unsigned mix32(unsigned x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

struct Mask {
    unsigned key, dropped_below;
    float scale;
    // What an element is multiplied with. The key of a sample is added before the hash rather than hashed
    // with the element: one 32-bit hash an element instead of a 64-bit one.
    __device__ __forceinline__ float of(unsigned element) const {
        // The sum wraps modulo 2^32, as `wrapping_add` does on the host.
        return mix32(element + key) >= dropped_below ? scale : 0.0f;
    }
};

__device__ __forceinline__ Mask mask_of(u64 key, u64 first_sample, unsigned dropped_below,
                                               float scale, unsigned sample) {
    // The lower half of the hash, as the host's `as u32`. Samples are counted from `first_sample`,
    // so that masks do not depend on how a batch is cut into launches.
    Mask mask = {(unsigned)stream_of(key, first_sample + sample), dropped_below, scale};
    return mask;
}
