// The exponential moving average of the weights.
#include "common.cuh"

// Moves by a share of the difference, so that an average that equals its value stays exactly so.
extern "C" __global__ void average_add(float* averages, const float* values, u64 count,
                                       float share) {
    size_t i = thread_index();
    if (i < count) averages[i] += share * (values[i] - averages[i]);
}

// Exchanges both without a third array; the bfloat16 copy, which products read, follows the weights.
extern "C" __global__ void average_swap(float* averages, float* values, bf16* rounded,
                                        u64 count) {
    size_t i = thread_index();
    if (i >= count) return;
    // Numbers are moved and not computed: swapping twice restores every bit.
    float value = averages[i];
    averages[i] = values[i];
    values[i] = value;
    if (rounded) store(rounded + i, value);
}
