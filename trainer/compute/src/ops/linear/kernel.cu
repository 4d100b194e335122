// The gradient of a bias: the sums of all columns. The products of a linear layer are cublasLt's.
#include "columns.cuh"

template <typename T>
static __device__ void column_sums(const T* x, float* sums, unsigned rows, unsigned width) {
    bool well = lie_well(width, x);
    // Sums are fp32 where rows are bfloat16: a batch has tens of thousands of rows.
    float* target[1] = {sums};
    sum_columns<1>(rows, width, target, [&](size_t r, unsigned c, unsigned count, float(*out)[OCTET]) {
        float values[OCTET];
        load_some(x + r * width + c, well, count, values);
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++) out[0][k] += values[k];
    });
}

EXPORT(column_sums, (const T* x, float* sums, unsigned rows, unsigned width), (x, sums, rows, width))
