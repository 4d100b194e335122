// AdamW over the flat arrays, in one launch for all weights. A block takes a chunk: where it begins, how long it
// is, whether its weights decay. No chunk holds numbers of two segments, so that a block needs one decay, and
// the sum of squares of a segment is the sum over its chunks.
#include "common.cuh"

// sums[chunk] = Σ x². The host adds the chunks in fp64, in their order: the norm of the gradient decides over
// clipping, and must be the same in every run.
extern "C" __global__ void optimizer_squares(const float* gradients, const unsigned* chunks,
                                             float* sums) {
    const unsigned* chunk = chunks + 3 * blockIdx.x;
    const float* x = gradients + chunk[0];
    float sum = 0.0f;
    // A chunk has at most 2^14 numbers: a thread adds up to 64 squares in fp32, in one order.
    for (unsigned i = threadIdx.x; i < chunk[1]; i += blockDim.x) sum += x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Reads and writes four fp32 arrays once each; the bfloat16 copy of the weight is written here, because the next
// forward multiplies with it and a pass of its own would read all weights again.
extern "C" __global__ void optimizer_step(float* values, bf16* rounded, float* first, float* second,
                                          const float* gradients, const unsigned* chunks,
                                          float beta_1, float beta_2, float epsilon, float clip,
                                          float rate, float correction, float keep,
                                          float keep_decayed) {
    const unsigned* chunk = chunks + 3 * blockIdx.x;
    float kept = chunk[2] ? keep_decayed : keep;
    for (unsigned offset = threadIdx.x; offset < chunk[1]; offset += blockDim.x) {
        size_t i = (size_t)chunk[0] + offset;
        // Clipping is a factor here: scaling the gradients in memory would be a pass of its own.
        float gradient = clip * gradients[i];
        float mean = beta_1 * first[i] + (1.0f - beta_1) * gradient;
        float square = beta_2 * second[i] + (1.0f - beta_2) * gradient * gradient;
        // Epsilon is added after the bias correction, as PyTorch does.
        float spread = sqrtf(square) * correction + epsilon;
        // Decoupled decay: it scales the weight and never enters the moments.
        float value = values[i] * kept - rate * mean / spread;
        first[i] = mean;
        second[i] = square;
        values[i] = value;
        if (rounded) store(rounded + i, value);
    }
}

extern "C" __global__ void optimizer_add(float* values, unsigned count, float number) {
    size_t i = thread_index();
    if (i < count) values[i] += number;
}

extern "C" __global__ void optimizer_clamp(float* values, bf16* rounded, unsigned count, float low,
                                           float high) {
    size_t i = thread_index();
    if (i >= count) return;
    // Comparisons and not fminf and fmaxf, which would turn NaN into a bound: a broken run must be seen to be broken.
    float value = values[i] < low ? low : values[i] > high ? high : values[i];
    values[i] = value;
    if (rounded) store(rounded + i, value);
}
