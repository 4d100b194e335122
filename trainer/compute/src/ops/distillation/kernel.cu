// The cosine of a teacher's features and the student's, which are interpolated to the teacher's width. A block takes a
// row; interpolated features are computed again wherever they are needed and never written.
#include "common.cuh"

// Element i of an interpolated vector lies between `firsts[i]` and its right neighbour, whose weight is `shares[i]`;
// `begins[j]` is the first element whose left neighbour is at least j.
struct Stretch {
    const unsigned *firsts, *begins;
    const float* shares;
    unsigned width;
    __device__ __forceinline__ float at(const float* from, unsigned i) const {
        unsigned left = firsts[i], right = left + 1 < width ? left + 1 : left;
        return (1.0f - shares[i]) * from[left] + shares[i] * from[right];
    }
};

// Shapes: taught [rows, wide]; features, gradients [rows, width]; cosines [rows].
// cosines[row] is the cosine; the gradient of −scale · cosine is added to that of the features.
extern "C" __global__ void distillation(const float* taught, const float* features, float* gradients,
                                        float* cosines, const unsigned* firsts,
                                        const unsigned* begins, const float* shares, unsigned width,
                                        unsigned wide, float scale, float shortest) {
    Stretch stretch = {firsts, begins, shares, width};
    const float* teacher = taught + (size_t)blockIdx.x * wide;
    const float* own = features + (size_t)blockIdx.x * width;
    float* gradient = gradients + (size_t)blockIdx.x * width;
    float both = 0.0f, of_teacher = 0.0f, of_own = 0.0f;
    for (unsigned i = threadIdx.x; i < wide; i += blockDim.x) {
        float a = teacher[i], b = stretch.at(own, i);
        both += a * b;
        of_teacher += a * a;
        of_own += b * b;
    }
    // Lengths are clamped from below: a vector of zeros has the cosine 0 instead of NaN.
    float teacher_inverse = 1.0f / fmaxf(sqrtf(block_sum(of_teacher)), shortest);
    float own_inverse = 1.0f / fmaxf(sqrtf(block_sum(of_own)), shortest);
    float cosine = block_sum(both) * teacher_inverse * own_inverse;
    if (threadIdx.x == 0) cosines[blockIdx.x] = cosine;
    for (unsigned j = threadIdx.x; j < width; j += blockDim.x) {
        // A gather: each of the student's features sums over the elements that it is a neighbour of, in their order. A
        // scatter from the elements would need atomics.
        float sum = 0.0f;
        for (unsigned i = begins[j > 0 ? j - 1 : 0]; i < begins[j + 1]; i++) {
            float here = cosine * own_inverse * stretch.at(own, i) - teacher_inverse * teacher[i];
            // Its left neighbour is j, or its right one is; at the right end, where the right neighbour is clamped, both.
            float part = firsts[i] == j ? 1.0f - shares[i] : shares[i];
            if (firsts[i] == j && j + 1 == width) part = 1.0f;
            sum += part * scale * own_inverse * here;
        }
        gradient[j] += sum;
    }
}
