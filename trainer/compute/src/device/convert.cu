// Copies between number formats, which also update the bfloat16 copy of the target where it has one: products read
// the copy of a weight, and it must never be older than the weight.
#include "common.cuh"

template <typename From, typename To>
__device__ __forceinline__ void convert(const From* from, To* to, bf16* rounded, u64 count) {
    // A null `rounded` counts as aligned, so targets without a copy take the wide path as well.
    bool well = aligned(from) && aligned(to) && aligned(rounded);
    for_octets(
        count, well,
        [&](size_t i) {
            float values[OCTET];
            load8(from + i, values);
            store8(to + i, values);
            if (rounded) store8(rounded + i, values);
        },
        [&](size_t i) {
            float value = load(from + i);
            store(to + i, value);
            if (rounded) store(rounded + i, value);
        });
}

// The host composes a kernel's name from both formats, so there is one for each pair; fp32 to fp32
// serves weights, whose bfloat16 copy has to follow.
extern "C" __global__ void convert_f32_f32(const float* from, float* to, bf16* rounded, u64 count) {
    convert(from, to, rounded, count);
}

extern "C" __global__ void convert_f32_bf16(const float* from, bf16* to, bf16* rounded, u64 count) {
    convert(from, to, rounded, count);
}

extern "C" __global__ void convert_bf16_f32(const bf16* from, float* to, bf16* rounded, u64 count) {
    convert(from, to, rounded, count);
}

extern "C" __global__ void convert_bf16_bf16(const bf16* from, bf16* to, bf16* rounded, u64 count) {
    convert(from, to, rounded, count);
}
